"""What a recipe says for one global batch, at another."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolo.architecture import COCO_ANCHORS
from yolo.errors import RecipeError
from yolo.model.loss import DetectionLoss, Normaliser
from yolo.recipe import load_recipe, prepare, resolve
from yolo.recipe.load.merge import Source
from yolo.recipe.render.resolved_yaml import effective_yaml
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.build import set_batchnorm_momentum
from yolo.training.engine.ema import ModelEMA

Write = Callable[..., Path]
DEMO = Path(__file__).parents[3] / "recipes" / "demo.yaml"
ADAM_KINDS = ["AdamW", "OneBitAdam", "ZeroOneAdam", "OneBitLamb"]


def at(batch: int, *overrides: str, base: int | None = 16, recipe: Path = DEMO) -> Recipe:
    stated = f"train.base_batch={'null' if base is None else base}"
    return prepare(recipe, [stated, f"train.global_batch={batch}", *overrides], 2).resolved.recipe


def unscaled(recipe: Recipe) -> dict[str, object]:
    """All but what says how large a batch is."""
    sizes = {"global_batch", "base_batch", "micro_batch", "gradient_accumulation_steps"}
    return recipe.model_dump(exclude={"train": sizes})


def test_without_a_base_batch_all_is_taken_as_it_stands() -> None:
    assert unscaled(at(128, base=None)) == unscaled(at(16, base=None))


def test_at_the_base_batch_all_is_taken_as_it_stands() -> None:
    assert unscaled(at(16)) == unscaled(at(16, base=None))


@pytest.mark.parametrize("kind", ADAM_KINDS)
def test_adams_rate_grows_with_the_root_of_the_batch(kind: str) -> None:
    settings = (f"optimizer.type={kind}", "optimizer.lr=0.002")
    assert at(64, *settings).optimizer.lr == pytest.approx(0.004)
    assert at(4, *settings).optimizer.lr == pytest.approx(0.001)


def step_of_sgd(batch: int, *overrides: str) -> torch.Tensor:
    """A first step on copies of one image: learning rate times the gradient as it is clipped."""
    recipe = at(batch, "optimizer.type=SGD", *overrides)
    criterion = DetectionLoss(torch.tensor(COCO_ANCHORS), (8, 16, 32), 3, 64)
    boxes = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.3]]).repeat(batch, 1)
    boxes[:, 0] = torch.arange(batch)
    weight = torch.ones(8, requires_grad=True)
    logits = [weight[-1] * weight.expand(batch, 3, side, side, 8) for side in (8, 4, 2)]
    assignment = criterion.assign(boxes, (batch, 3, 64, 64))
    loss, _ = criterion(logits, assignment, Normaliser(assignment.matches, batch, shards=1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_([weight], recipe.train.gradient_clipping)
    assert weight.grad is not None
    return recipe.optimizer.lr * weight.grad


@pytest.mark.parametrize("clipping", [0.01, 1e6])  # every gradient is longer than the first
def test_sgds_step_grows_with_the_batch(clipping: float) -> None:
    stated = f"train.gradient_clipping={clipping}"
    torch.testing.assert_close(step_of_sgd(64, stated), 4 * step_of_sgd(16, stated))
    unclipped = step_of_sgd(16, "train.gradient_clipping=1e6")
    assert torch.equal(step_of_sgd(16, stated), unclipped) == (clipping == 1e6)


def course_of_adam(recipe: Recipe) -> list[float]:
    """256 weights on their way from 0 to 1 under gradients that are nearly all noise: their mean, ten times."""
    images = 1 + 30 * torch.randn(64 * 400, 256, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(256, requires_grad=True)
    lr, betas = recipe.optimizer.lr, recipe.optimizer.betas
    optimizer = torch.optim.AdamW([weights], lr=lr, betas=betas, weight_decay=0.0)
    means = []
    for part in images.chunk(10):
        for batch in part.split(recipe.train.global_batch):
            weights.grad = (weights.detach() - batch).sum(0)
            optimizer.step()
        means.append(weights.mean().item())
    return means


def test_adam_takes_the_same_course_over_the_images() -> None:
    settings = ("optimizer.lr=0.02", "optimizer.betas=[0.9,0.999]")
    stated = course_of_adam(at(16, *settings))
    assert course_of_adam(at(64, *settings)) == pytest.approx(stated, abs=0.04)
    left_behind = course_of_adam(at(64, *settings, base=None))
    assert max(a - b for a, b in zip(stated, left_behind, strict=True)) > 0.2


def test_the_average_of_the_weights_looks_back_over_the_same_images() -> None:
    """Of a weight that rises by 1 with every 64 images, the average must be the same: in the ramp and after it."""

    def averages(recipe: Recipe) -> list[float]:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        average = ModelEMA(model, recipe.train)
        seen = []
        for step in range(1, 64 * 600 // recipe.train.global_batch + 1):
            images = step * recipe.train.global_batch
            nn.init.constant_(model.weight, images / 64)
            average.update()
            if images % (64 * 60) == 0:
                seen.append(float(average.parameters[0]))
        return seen

    settings = ("train.ema_ramp_steps=100", "train.ema_decay=0.99")
    stated = averages(at(16, *settings))
    assert averages(at(64, *settings)) == pytest.approx(stated, abs=1.0)
    left_behind = averages(at(64, *settings, base=None))
    assert max(a - b for a, b in zip(stated, left_behind, strict=True)) > 10


def test_batchnorms_statistics_look_back_over_the_same_images() -> None:
    def momentum(batch: int, *overrides: str, base: int | None = 16) -> float:
        model = nn.BatchNorm2d(1)
        set_batchnorm_momentum(model, at(batch, *overrides, base=base))
        return float(model.momentum or 0.0)

    assert momentum(16) == momentum(128, base=None) == 0.03
    assert momentum(128) == pytest.approx(1 - 0.97**8)
    # They move with each micro batch.
    assert momentum(128, "train.gradient_accumulation_steps=4") == pytest.approx(1 - 0.97**2)
    assert momentum(128, "model.batchnorm_momentum=0.1") == 0.1


def test_a_larger_batch_warms_up_for_more_epochs_in_fewer_steps() -> None:
    stated, scaled = at(16), at(64)
    assert scaled.train.warmup_epochs == pytest.approx(2 * stated.train.warmup_epochs)
    assert scaled.train.warmup_min_steps == stated.train.warmup_min_steps / 2


def test_a_smaller_batch_warms_up_for_as_many_epochs() -> None:
    assert at(4).train.warmup_epochs == at(16).train.warmup_epochs
    assert at(4).train.warmup_min_steps == at(16).train.warmup_min_steps


def test_what_is_off_stays_off() -> None:
    settings = ("train.warmup_epochs=0", "train.gradient_clipping=0", "train.ema=false")
    assert at(128, *settings).train.warmup_epochs == 0
    assert at(128, *settings).train.gradient_clipping == 0


def test_a_scaled_value_says_how_it_came_about() -> None:
    overrides = ["train.base_batch=16", "train.global_batch=128", "optimizer.lr=0.002"]
    resolved = resolve(load_recipe(DEMO, overrides), 2)
    origin = resolved.origin(("optimizer", "lr"))
    assert origin.source is Source.AUTO
    assert origin.place == "0.002 x sqrt(global_batch 128 / base_batch 16)"


@settings(deadline=None)
@given(first=st.integers(1, 2**12), second=st.integers(1, 2**12))
def test_a_way_through_another_batch_leads_to_the_same(first: int, second: int) -> None:
    def resolved(batch: int, *overrides: str) -> Recipe:
        return resolve(load_recipe(DEMO, [f"train.global_batch={batch}", *overrides]), 1).recipe

    direct = resolved(second, "train.base_batch=64")
    halfway = resolved(first, "train.base_batch=64")
    again = resolved(
        second,
        f"train.base_batch={first}",
        f"train.ema_steps_per_step={halfway.train.ema_steps_per_step}",
        f"optimizer.lr={halfway.optimizer.lr}",
    )
    assert halfway.train.base_batch == first
    assert again.optimizer.lr == pytest.approx(direct.optimizer.lr)
    assert again.train.ema_steps_per_step == pytest.approx(direct.train.ema_steps_per_step)


def test_a_runs_own_recipe_is_not_scaled_again(tmp_path: Path) -> None:
    overrides = ["train.base_batch=16", "train.global_batch=128"]
    resolved = resolve(load_recipe(DEMO, overrides), 2)
    kept = tmp_path / "recipe.yaml"
    kept.write_text(effective_yaml(resolved))
    assert resolve(load_recipe(kept), 2).recipe == resolved.recipe


def test_a_rate_out_of_bounds_is_refused_with_what_made_it() -> None:
    with pytest.raises(RecipeError, match=r"global_batch 6000000 / base_batch 16 .* set .*null"):
        at(6_000_000, "optimizer.lr=0.05")


def test_the_farthest_batches_are_scaled_within_bounds() -> None:
    large = at(10**10, "optimizer.type=SGD", base=1).train
    assert large.ema_steps_per_step == 10**10
    assert large.warmup_epochs <= large.epochs
    assert 0 < at(2, base=10**10).train.ema_steps_per_step < 1e-9
