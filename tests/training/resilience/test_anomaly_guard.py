"""The stability guard: what is a spike, what is counted, when it goes back."""

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import DEMO, Run, assert_same, last_weights
from yolo.communication.sharding.column_group import ColumnGroup
from yolo.recipe.schema.train import StabilitySection
from yolo.training.engine.distributed import DistributedContext
from yolo.training.resilience.anomaly_guard import (
    LEAST_MEMORY,
    Anomaly,
    SpikeDetector,
    StabilityGuard,
)
from yolo.training.resilience.nonfinite import first_layer_not_finite

ALONE = DistributedContext(0, 0, 1, 1, torch.device("cpu"))


def guard(**settings: float) -> StabilityGuard:
    return StabilityGuard(StabilitySection(**settings), ALONE)


def ordinary(step: int) -> float:
    """A loss as training has it: it falls, and wavers by a tenth."""
    return 2.0 * 0.999**step * math.exp(random.Random(step).gauss(0, 0.1))


def take(
    judge: StabilityGuard, step: int, loss: float, norm: float | None = None, is_finite: bool = True
) -> str | None:
    factor = judge.nan_gate(torch.tensor(loss), wants_to_stop=False, is_local=False)
    faults = judge.observe(step, bool(factor.isfinite()) and is_finite, True, norm, is_local=False)
    return faults[0].reason if faults else None


def test_an_ordinary_loss_is_never_a_spike() -> None:
    judge = guard()
    assert [take(judge, step, ordinary(step)) for step in range(2000)] == [None] * 2000
    assert judge.skipped == 0


@pytest.mark.parametrize("stripe", [0, 1])
def test_a_bad_local_step_of_an_image_counts_once_for_all_its_ranks(stripe: int) -> None:
    place = ColumnGroup(index=stripe)  # of one column, so that this process is enough
    context = DistributedContext(0, 0, 1, 1, torch.device("cpu"), place)
    judge = StabilityGuard(StabilitySection(), context)
    judge.nan_gate(torch.tensor(math.nan), wants_to_stop=False, is_local=True)
    assert not judge.observe(1, False, False, None, is_local=True)
    judge.sync(1, False, torch.device("cpu"))
    assert judge.skipped == len(judge.recent_anomalies) == (1 if stripe == 0 else 0)


def skewed(step: int) -> float:
    """A loss as small batches have it: most are alike, one in five is half as large again, one in a hundred 2.6 times."""
    chance = random.Random(step)
    share = chance.random()
    return 0.3 * chance.gauss(1, 0.03) * (2.6 if share < 0.01 else 1.5 if share < 0.2 else 1.0)


def test_no_loss_of_small_batches_is_a_spike_but_ten_times_the_usual_is() -> None:
    judge = guard()
    assert [take(judge, step, skewed(step)) for step in range(2000)] == [None] * 2000
    assert take(judge, 2000, 3.0) is not None


@pytest.mark.slow
def test_short_runs_on_clean_images_leave_out_no_step(run: Run) -> None:
    """`YOLO_CLEAN_RUNS=100` for more; each of 60 steps, of which the guard judges the last 30."""
    skipped = {}
    for seed in range(int(os.environ.get("YOLO_CLEAN_RUNS", "1"))):
        few = ("train.epochs=20", "evaluation.every_epochs=20", "checkpoint.every_epochs=20")
        ended = run(DEMO, f"train.seed={seed}", *few)
        skipped[seed] = ended.read("summary.json")["skipped_steps"]
        assert ended.read("summary.json")["steps"] == 60
    assert skipped == dict.fromkeys(skipped, 0)


def test_a_spike_is_left_out_and_named_and_does_not_become_usual() -> None:
    judge = guard()
    for step in range(200):
        take(judge, step, ordinary(step))
    limit = judge.losses.limit
    for step in range(200, 300):
        wrong = take(judge, step, 100.0)
        assert wrong is not None and wrong.startswith("the loss is 100, above ")
    assert judge.skipped == 100 and judge.losses.limit == limit


def test_nothing_is_a_spike_before_enough_was_seen_nor_where_it_is_not_asked_for() -> None:
    early, never = SpikeDetector(8.0), SpikeDetector(0.0)
    for step in range(LEAST_MEMORY):
        assert early.limit == math.inf
        early.add(ordinary(step))
        never.add(ordinary(step))
    assert early.limit < 100 and never.limit == math.inf


def test_what_is_not_finite_is_bad_from_the_first_step_on() -> None:
    judge = guard()
    assert take(judge, 1, math.nan) == "the loss is nan"
    assert take(judge, 2, math.inf) == "the loss is inf"
    assert take(judge, 3, 1.0, is_finite=False) == "the gradient is not finite"
    assert judge.skipped == 3


def test_a_gradient_that_is_far_too_long_counts_too() -> None:
    judge = guard()
    for step in range(100):
        take(judge, step, 1.0, norm=ordinary(step))
    wrong = take(judge, 100, 1.0, norm=1e4)
    assert wrong is not None and wrong.startswith("the gradient's norm is 1e+04, above ")


def test_only_bad_steps_that_are_close_together_make_it_go_back() -> None:
    judge = guard(strikes=3, strike_window=10)
    for step in (1, 6, 12, 17, 23):
        take(judge, step, math.nan)
        assert not judge.must_roll_back
    take(judge, 24, math.nan)
    take(judge, 25, math.nan)
    assert judge.must_roll_back


def test_after_going_back_the_rate_is_lower_for_a_while() -> None:
    judge = guard(lr_factor=0.5, calm_steps=10, rollbacks=2)
    assert judge.lr_factor(7) == 1.0
    judge.on_rollback(7)
    assert (judge.lr_factor(8), judge.lr_factor(16), judge.lr_factor(17)) == (0.5, 0.5, 1.0)
    judge.on_rollback(10)
    assert judge.lr_factor(11) == 0.25 and judge.has_given_up


def test_a_resumed_guard_judges_as_the_one_before(tmp_path: Path) -> None:
    judge, again = guard(), guard()
    for step in range(60):
        take(judge, step, ordinary(step), norm=ordinary(step + 1))
    take(judge, 60, math.nan)
    judge.on_rollback(60)
    take(judge, 61, math.nan)
    again.load_state_dict(json.loads(json.dumps(judge.state_dict())))
    assert again.state_dict() == judge.state_dict()
    assert list(again.recent_anomalies) == [61] and again.skipped == 2
    assert again.losses.limit == judge.losses.limit


def test_the_first_layer_that_is_not_finite_is_named() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1))
    images = torch.rand(1, 3, 4, 4)
    assert first_layer_not_finite(model, images) is None
    with torch.no_grad():
        model[2].bias[1] = math.inf  # type: ignore[index]
    assert first_layer_not_finite(model, images) == "2 (Conv2d)"
    assert first_layer_not_finite(model, images * math.nan) == "the images themselves"


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let images of a share of the micro batches become NaN in all ranks that are started from now on."""

    def feed(share: float) -> None:
        monkeypatch.setenv("YOLO_POISON", f"{share}:3")

    return feed


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_steps_of_nan_are_left_out_by_all_ranks_and_nothing_of_them_stays(
    run: Run, poison: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    """The run ends with the bits of one that never saw those steps."""
    settings = (
        *("recipes/demo.yaml", f"zero.stage={stage}", "train.epochs=6"),
        *("stability.strikes=20", "communication.check_weights_every=1"),
        # A step that was left out counts in the schedule; the rate is the same in all.
        *("train.schedule=linear", "train.final_lr_fraction=1.0"),
    )
    poison(0.25)
    ended = run(*settings)
    fed = ended.output.count("images of a step become NaN")
    summary = ended.read("summary.json")
    assert 0 < summary["skipped_steps"] <= fed < summary["steps"] == 18
    events = ended.events()
    assert len(events) == summary["skipped_steps"]
    assert {event["kind"] for event in events} == {"skipped"}
    assert summary["ap"] is not None  # BatchNorm's statistics, too, are numbers
    logged = [row for row in ended.metrics() if row["kind"] == "step"]
    assert sum(row["train/skipped_steps"] for row in logged) == summary["skipped_steps"]
    assert logged[-1]["train/loss"] is not None

    monkeypatch.setenv("YOLO_PASS_OVER", os.environ["YOLO_POISON"])
    monkeypatch.delenv("YOLO_POISON")
    spared = run(*settings)
    assert spared.read("summary.json")["steps"] == 18 - summary["skipped_steps"]
    weights = last_weights(ended)
    assert all(np.isfinite(tensor).all() for tensor in weights.values())
    assert_same(weights, last_weights(spared))


LOCAL_STEPS = {
    "0/1 Adam": (
        *("optimizer.type=ZeroOneAdam", "optimizer.var_freeze_step=2"),
        *("optimizer.local_step_scaler=2", "optimizer.local_step_clipper=4"),
    ),
    "outer steps": ("communication.sync_every=2",),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", LOCAL_STEPS.values(), ids=LOCAL_STEPS)
def test_what_a_rank_leaves_out_alone_leaves_nothing_behind_and_is_told_when_ranks_meet(
    run: Run, poison: Callable[[float], None], settings: tuple[str, ...]
) -> None:
    poison(0.2)
    ended = run(
        *("recipes/demo.yaml", "train.epochs=6", *settings),
        *("stability.strikes=50", "communication.check_weights_every=1"),
        "tracking.log_every_steps=3",  # an epoch
    )
    summary = ended.read("summary.json")
    fed = ended.output.count("images of a step become NaN")
    assert 0 < summary["skipped_steps"] <= fed  # on both ranks in a step in common: once
    assert summary["steps"] == 18
    events = ended.events()
    assert {event["kind"] for event in events} == {"skipped"}
    assert summary["ap"] is not None  # BatchNorm's statistics, too, are numbers
    logged = [row for row in ended.metrics() if row["kind"] == "step"]
    assert len(logged) == 6
    assert all(row["train/loss"] is not None for row in logged if row["train/skipped_steps"] < 3)


def test_what_ranks_found_alone_counts_with_their_next_vote_or_when_they_meet() -> None:
    judge = guard(strikes=3)
    for meets in (False, True):
        for step in (1, 2):
            judge.nan_gate(torch.tensor(math.nan), wants_to_stop=False, is_local=True)
            assert judge.observe(step, False, False, None, is_local=True) == []
        if meets:
            faults = judge.sync(2, True, ALONE.device)
        else:
            judge.nan_gate(torch.tensor(1.0), wants_to_stop=True, is_local=False)
            faults = judge.observe(3, True, True, None, is_local=False)
        assert faults == [Anomaly("2 bad steps of single ranks", was_applied=False)]
        assert judge.should_stop
        assert judge.must_roll_back == meets  # 2 strikes, then 4
    assert judge.sync(4, False, ALONE.device) == [] and not judge.should_stop


@pytest.mark.slow
def test_too_many_bad_steps_take_the_run_back_and_then_stop_it_with_a_diagnosis(
    run: Run, poison: Callable[[float], None]
) -> None:
    poison(0.35)
    ended = run(
        *("recipes/demo.yaml", "train.epochs=20", "checkpoint.every_steps=1", "checkpoint.keep=9"),
        *("stability.strikes=3", "stability.strike_window=6", "stability.rollbacks=2"),
        fails=True,
    )
    assert ended.code == 2 and "Traceback" not in ended.output
    events = ended.events()
    kinds = [event["kind"] for event in events]
    assert kinds.count("rolled back") == 2 and kinds[-1] == "stopped"
    rates = [row["train/learning_rate"] for row in ended.metrics() if row["kind"] == "step"]
    assert rates[-1] < 0.3 * max(rates)  # halved twice
    said = events[-1]["text"]
    assert "the images themselves" in said and "train-0" in said  # which images
