from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from yolo.architecture import VARIANTS
from yolo.errors import RecipeError
from yolo.recipe import load_recipe, prepare, resolve
from yolo.recipe.load.merge import Source
from yolo.recipe.resolve.resolve import IMAGES_ON_16_GB

Write = Callable[..., Path]
DEMO = Path(__file__).parents[3] / "recipes" / "demo.yaml"


@given(
    batch=st.integers(1, 1024),
    ranks=st.integers(1, 64),
    variant=st.sampled_from(sorted(VARIANTS)),
    size=st.sampled_from([320, 640, 1280]),
)
def test_the_global_batch_is_kept_for_every_number_of_ranks(
    batch: int, ranks: int, variant: str, size: int
) -> None:
    assume(batch % ranks == 0)
    overrides = [
        f"train.global_batch={batch}",
        f"model.variant={variant}",
        f"model.image_size={size}",
    ]
    train = resolve(load_recipe(DEMO, overrides), ranks).recipe.train
    assert train.micro_batch * train.gradient_accumulation_steps * ranks == batch
    assert train.micro_batch <= max(1, IMAGES_ON_16_GB[variant] * (640 / size) ** 2 / 2)


def test_a_batch_that_does_not_divide_names_those_that_do(write: Write) -> None:
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:2: train.global_batch: 64 .* such as 60 or 66"
    ):
        resolve(load_recipe(write("train: {global_batch: 64}")), 6)


def test_a_batch_that_contradicts_its_parts_shows_the_sum(write: Write) -> None:
    text = "train: {global_batch: 64, micro_batch: 8, gradient_accumulation_steps: 3}"
    with pytest.raises(RecipeError, match=r"64 is not micro_batch 8 x .* 3 x 2 ranks = 48"):
        resolve(load_recipe(write(text)), 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_buckets_flush_at_least_four_times_in_a_backward_pass(write: Write, variant: str) -> None:
    from yolo.architecture import parameter_count

    loaded = load_recipe(write(f"model: {{variant: {variant}}}\nzero: {{stage: 1}}"))
    bucket = resolve(loaded, 2).recipe.zero.reduce_bucket_size
    assert bucket % 2 == 0
    assert parameter_count(variant, 80) / bucket > 3.9


def test_an_auto_value_says_how_it_came_about(write: Write) -> None:
    resolved = resolve(load_recipe(write("train: {global_batch: 32}\nmodel: {variant: x}")), 2)
    origin = resolved.origin(("train", "micro_batch"))
    assert origin.source is Source.AUTO
    assert resolved.recipe.train.micro_batch == 8
    assert "largest divisor of 32 / 2 ranks = 16 up to 8" in str(origin)
    assert str(resolved.origin(("train", "seed"))) == "default"


def test_no_auto_is_left_but_what_waits_for_the_data_and_the_machines(write: Write) -> None:
    resolved = resolve(load_recipe(write("")), 2)
    text = resolved.recipe.model_dump_json()
    assert text.count('"auto"') == 8
    data = resolved.recipe.data
    assert (data.cache_gb, data.cache_folder) == ("auto", "auto")  # what each machine has
    assert resolved.recipe.model.anchors == "auto"
    assert resolved.recipe.loss.cls == "auto"  # depends on the number of classes
    assert resolved.recipe.communication.powersgd_start_step == "auto"  # counts the data's steps
    assert resolved.recipe.cluster.master_port == "auto"
    assert resolved.recipe.cluster.launcher == "auto"  # what is installed there


def test_the_launchers_own_count_of_local_ranks_divides_the_cores(write: Write) -> None:
    resolved = resolve(load_recipe(write("")), world_size=8, local_world_size=2)
    assert resolved.recipe.cluster.processes_per_node == 2
    assert "as many as the launcher started" in str(
        resolved.origin(("cluster", "processes_per_node"))
    )


def test_a_huge_batch_is_answered_at_once(write: Write) -> None:
    train = resolve(load_recipe(write("train: {global_batch: 1e10}")), 2).recipe.train
    assert train.micro_batch * train.gradient_accumulation_steps * 2 == 10**10


def sync_batchnorm(*overrides: str, ranks: int = 2, batch: int = 8) -> tuple[bool, str]:
    """As it is resolved on GPUs, four of a batch of 8 to a rank, and why."""
    settings = ["cluster.backend=nccl", f"train.global_batch={batch}", *overrides]
    resolved = resolve(load_recipe(DEMO, settings), ranks)
    chosen = resolved.recipe.model.sync_batchnorm
    assert chosen != "auto"
    return chosen, str(resolved.origin(("model", "sync_batchnorm")))


def test_few_images_at_once_share_their_statistics() -> None:
    chosen, why = sync_batchnorm()
    assert chosen
    assert why == (
        "auto: 4 images per rank at once are few, below 8; the ranks of a node share statistics"
    )
    # What is added up over micro batches does not help: each is normalised by itself.
    assert sync_batchnorm("train.micro_batch=4", batch=64)[0]


@pytest.mark.parametrize(
    ("overrides", "ranks", "batch", "why"),
    [
        ((), 2, 16, "8 images per rank at once are enough"),
        ((), 1, 4, "there is one rank per node"),
        (("cluster.nodes=2",), 2, 8, "there is one rank per node"),
        (("cluster.backend=gloo",), 2, 8, "an exchange per layer costs CPU ranks"),
        (("cluster.backend=mpi", "cluster.accelerator=cpu"), 2, 8, "an exchange per layer costs"),
        (("sharding.columns=2", "model.image_size=128"), 2, 4, "they share in any case"),
        (("communication.sync_every=8",), 2, 8, "ranks take local steps"),
        (("optimizer.type=ZeroOneAdam",), 2, 8, "ranks take local steps"),
    ],
)
def test_statistics_stay_a_ranks_own_where_sharing_does_not_pay_or_work(
    overrides: tuple[str, ...], ranks: int, batch: int, why: str
) -> None:
    chosen, reason = sync_batchnorm(*overrides, ranks=ranks, batch=batch)
    assert not chosen
    assert why in reason


def test_what_is_chosen_of_sync_batchnorm_no_rule_objects_to() -> None:
    local_steps = (("communication.sync_every=8",), ("optimizer.type=ZeroOneAdam",))
    for overrides in ((), ("cluster.nodes=2",), *local_steps):
        common = ["train.global_batch=8", *overrides]
        for backend in ("nccl", "gloo"):
            for ranks in (1, 2):
                found = prepare(DEMO, [*common, f"cluster.backend={backend}"], ranks)
                assert not [line for line in found.warnings if "sync_batchnorm" in line]


def test_values_on_top_of_a_prepared_recipe_are_resolved_for_its_ranks_and_meet_the_rules(
    write: Write,
) -> None:
    path = write("train: {global_batch: 16}")
    overrides = ("train.micro_batch=2", "zero.round_robin_gradients=true")
    plain, at_once = prepare(path, (), 4, 2), prepare(path, overrides, 4, 2)
    path.unlink()
    assert plain.with_values(*overrides) == at_once
    assert at_once.resolved.recipe.train.gradient_accumulation_steps == 2
    assert len(at_once.warnings) == len(plain.warnings) + 1
    with pytest.raises(
        RecipeError, match="override 'communication.reducer=overlapped': .*zero.stage"
    ):
        plain.with_values("communication.reducer=overlapped", "zero.stage=1")


def test_a_prepared_recipe_is_prepared_for_another_number_of_ranks_and_another_batch(
    write: Write,
) -> None:
    path = write("train: {global_batch: 16}")
    plain, other = prepare(path, (), 4, 2), prepare(path, ("train.global_batch=24",), 3, 1)
    path.unlink()
    assert plain.with_values("train.global_batch=24", world_size=3, local_world_size=1) == other
