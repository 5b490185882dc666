from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo.errors import RecipeError
from yolo.recipe import load_recipe
from yolo.recipe.load.merge import Source
from yolo.recipe.schema.recipe import UnresolvedRecipe

Write = Callable[..., Path]
Refusal = Callable[..., str]


def test_a_misspelt_key_names_the_nearest_right_one(refusal: Refusal) -> None:
    message = refusal("train:\n  gradient_acumulation_steps: 4\n")
    assert "recipe.yaml:3: train.gradient_acumulation_steps: there is no such key." in message
    assert "Did you mean 'gradient_accumulation_steps'?" in message
    assert "Allowed here: base_batch, ema, " in message


def test_a_misspelt_section_names_the_nearest_right_one(refusal: Refusal) -> None:
    assert "Did you mean 'optimizer'?" in refusal("optimiser:\n  lr: 0.1\n")


def test_a_misspelt_word_names_the_nearest_right_one(refusal: Refusal) -> None:
    message = refusal("data:\n  augmentation:\n    preset: hihg\n")
    assert 'recipe.yaml:4: data.augmentation.preset: found "hihg", expected one of' in message
    assert "Did you mean 'high'?" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("batch_size: 16", ("Did you mean 'train.global_batch'?",)),
        ("train: {batch_size: 16}", ("Did you mean 'global_batch'?",)),
        ("Batch_Size: 16", ("Did you mean 'train.global_batch'?",)),
        ("checkpoint: {save_period: 1}", ("Did you mean 'every_epochs'?",)),
        ("epochs: 3", ("Did you mean 'train.epochs'?",)),
        ("train: {lr0: 0.1}", ("Did you mean 'optimizer.lr'?",)),
        ("data: {augmentation: {workers: 2}}", ("Did you mean 'data.workers'?",)),
        ("tracking: {wandb: {mode: off}}", ("Did you mean 'disabled'?",)),
        ("train: {epochs: 0}", ("train.epochs: found 0, expected a whole number from 1",)),
        ("train: {epochs: 2.5}", ("train.epochs: found 2.5, expected a whole number",)),
        ("train: {epochs: '10'}", ('train.epochs: found "10", expected a whole number',)),
        ("train: {gradient_clipping: -1.0}", ("found -1.0, expected a number from 0",)),
        ("train: {micro_batch: atuo}", ("Did you mean 'auto'?",)),
        ("optimizer: {lr: '1e-3'}", ('optimizer.lr: found "1e-3", expected a number above 0',)),
        ("optimizer: {lr: .nan}", ("optimizer.lr",)),
        ("optimizer: {type: adamw}", ("optimizer", "AdamW")),
        ("optimizer: {type: OneBitAdamm}", ("optimizer",)),
        (
            "optimizer: {type: AdamW, momentum: 0.9}",
            ("no such key of type AdamW", "Allowed here: betas, eps, lr, type, weight_decay"),
        ),
        ("zero: {stage: true}", ("zero.stage: true is not a number",)),
        ("zero: {stage: 5}", ("zero.stage: found 5, expected one of 0, 1, 2, 3",)),
        ("zero: {stage: '2'}", ('zero.stage: found "2", expected one of 0, 1, 2, 3',)),
        ("zero: {reduce_bucket_size: -1}", ("zero.reduce_bucket_size", "from 1")),
        ("zero: {offload_optimizer: gpu}", ("zero.offload_optimizer", '"none", "cpu"')),
        ("communication: {data_type: fp7}", ("communication.data_type", "Did you mean 'fp")),
        ("precision: {dtype: bf61}", ("Did you mean 'bf16'?",)),
        ("model: {image_size: 100}", ("must be a multiple of 32", "96 or 128")),
        ("model: {variant: nano}", ("model.variant", '"n", "s", "m", "l", "x", "n6"')),
        ("model: {anchors: [[1, 2]]}", ("model.anchors",)),
        ("model: 3", ("model: found 3, expected a section of keys",)),
        ("data: {max_bad_share: 2}", ("data.max_bad_share", "from 0 to 1")),
        ("data: {augmentation: {hsv_h: 0.5}}", ("data.augmentation.hsv_h", "from 0 to 0.4")),
    ],
)
def test_a_wrong_value_says_what_is_allowed(
    refusal: Refusal, text: str, parts: tuple[str, ...]
) -> None:
    message = refusal(text)
    assert "recipe.yaml:2: " in message
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


def test_all_mistakes_are_reported_at_once(refusal: Refusal) -> None:
    message = refusal("train: {epochs: 0}\nzero: {stge: 1}\nmodel: {variant: q}\n")
    assert len(message.splitlines()) == 3


def test_a_description_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("train: {epochs: 3}\n")
    with pytest.raises(RecipeError, match="description: is missing; expected text"):
        load_recipe(tmp_path / "x.yaml")


def test_a_missing_file_says_where_recipes_are_listed() -> None:
    with pytest.raises(RecipeError, match="nowhere.yaml: no such file; `yolo recipes`"):
        load_recipe("nowhere.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("train.epoch=3", "Did you mean 'epochs'?"),
        ("train.epochs=x", 'found "x", expected a whole number'),
        ("train.epochs.more=3", "train.epochs is a value, not a section"),
        ("train.epochs=[1", "not YAML"),
    ],
)
def test_a_wrong_override_is_refused_by_name(write: Write, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("train: {epochs: 2}"), [override])
    assert message in str(caught.value)
    assert f"override {override!r}" in str(caught.value)


def test_a_child_states_only_what_differs(write: Write) -> None:
    write("train: {epochs: 7, seed: 3}\nmodel: {variant: m}\n", "base/parent.yaml")
    loaded = load_recipe(write("extends: base/parent.yaml\ntrain:\n  epochs: 9\n"))
    assert (loaded.recipe.train.epochs, loaded.recipe.train.seed) == (9, 3)
    assert loaded.origins[("train", "epochs")].source is Source.FILE
    assert loaded.origins[("train", "epochs")].place.endswith("recipe.yaml:4")
    assert loaded.origins[("train", "seed")].source is Source.PARENT
    assert loaded.origins[("train", "seed")].place.endswith("parent.yaml:2")


def test_an_override_wins_over_the_file_and_says_so(write: Write) -> None:
    loaded = load_recipe(write("train: {epochs: 7}"), ["train.epochs=8", "train.epochs=9"])
    assert loaded.recipe.train.epochs == 9
    assert str(loaded.origins[("train", "epochs")]) == "override: train.epochs=9"


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.epochs=8", "train.epochs=9"),
        ("optimizer.type=AdamW", "optimizer.type=SGD", "optimizer.lr=0.1"),
        ("optimizer.type=SGD",),
        ("model.anchors=default", "deepspeed={zero_optimization: {reduce_scatter: false}}"),
    ],
)
def test_values_on_top_of_a_loaded_recipe_are_overrides_without_reading_it_again(
    write: Write, overrides: tuple[str, ...]
) -> None:
    path = write("optimizer: {momentum: 0.9, lr: 0.02}\ntrain: {epochs: 7}")
    plain, at_once = load_recipe(path), load_recipe(path, overrides)
    path.unlink()
    before = deepcopy(plain)
    one_by_one = plain
    for override in overrides:
        one_by_one = one_by_one.with_values(override)
    assert plain.with_values(*overrides) == one_by_one == at_once
    assert plain == before


def test_a_wrong_value_on_top_is_refused_by_name(write: Write) -> None:
    with pytest.raises(RecipeError, match=r"override 'train.epoch=3': .* Did you mean 'epochs'"):
        load_recipe(write("")).with_values("train.epoch=3")


def test_a_learning_rate_for_adam_is_one_for_1_bit_adam(write: Write) -> None:
    recipe = write("optimizer: {type: AdamW, lr: 0.004, betas: [0.8, 0.9]}")
    loaded = load_recipe(recipe, ["optimizer.type=OneBitAdam", "optimizer.freeze_step=7"])
    assert loaded.recipe.optimizer.lr == 0.004
    assert loaded.recipe.optimizer.betas == (0.8, 0.9)
    assert loaded.origins["optimizer", "lr"].source is Source.FILE
    again = load_recipe(recipe, ["optimizer.type=OneBitLamb"]).recipe.optimizer
    assert again.lr == 0.005  # a trust ratio makes another thing of it


def test_another_optimizer_does_not_inherit_the_first_ones_parameters(write: Write) -> None:
    loaded = load_recipe(write("optimizer: {momentum: 0.9}"), ["optimizer.type=AdamW"])
    assert loaded.recipe.optimizer.type == "AdamW"


def test_recipes_that_extend_each_other_are_refused(write: Write) -> None:
    write("extends: recipe.yaml\n", "other.yaml")
    with pytest.raises(RecipeError, match="leads back to a recipe that extends it"):
        load_recipe(write("extends: other.yaml\n"))


def test_a_missing_parent_is_named_with_the_line_that_asks_for_it(refusal: Refusal) -> None:
    assert "recipe.yaml:2: extends: " in refusal("extends: nowhere.yaml\n")


@given(st.builds(UnresolvedRecipe, description=st.just("x")))
def test_whatever_the_schema_allows_can_be_written_and_read_again(recipe: UnresolvedRecipe) -> None:
    assert UnresolvedRecipe.model_validate_json(recipe.model_dump_json()) == recipe
