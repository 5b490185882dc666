"""The picture of a step, by `yolo plan --timeline`."""

import itertools
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from yolo.cli import main
from yolo.planner.cost.strategies import GradientFidelity
from yolo.planner.hardware_catalog import cluster
from yolo.planner.plan import make_plan
from yolo.planner.prediction import Data
from yolo.planner.step_figure import step_times
from yolo.recipe import load_recipe

COCO = REPOSITORY / "recipes/coco/yolov5s.yaml"
ADAM = ["optimizer.type=AdamW", "optimizer.lr=0.001"]


def test_the_rows_of_a_picture_are_steps_as_the_plan_predicts_them() -> None:
    loaded = load_recipe(COCO, ADAM)
    plan = make_plan(
        loaded, cluster("2x8xa100-100gbe"), GradientFidelity.COMPRESSED, Data(118_287, 80)
    )
    times = step_times(loaded, plan)
    labels = {each.label: each.prediction for each in (*plan.ranked, *plan.excluded)}
    assert next(iter(times)) == plan.as_written.label
    assert {plan.first.label, "overlapped", "ZeRO-2"} <= times.keys()
    for name, time in times.items():
        network = sorted((s.start, s.end) for s in time.spans if s.is_network)
        computing = [(s.start, s.end) for s in time.spans if not s.is_network]
        for lane in (network, computing):
            assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(lane)), name
        assert max(end for _, end in (*network, *computing)) == pytest.approx(time.seconds)
        predicted = labels[name]
        assert time.seconds + predicted.straggler_seconds == pytest.approx(predicted.step_seconds)
    waits = {name: time.exposed_seconds for name, time in times.items()}
    assert waits["overlapped"] < waits[plan.as_written.label]


def test_a_strategy_that_rules_refuse_for_the_recipe_is_left_out(tmp_path: Path) -> None:
    picture = tmp_path / "new" / "step.png"
    own = ("train.gradient_accumulation_steps=4", "communication.sync_every=4")
    options = ("--cluster", "2x4xa100-10gbe", "--timeline", str(picture))
    assert main(["plan", str(COCO), *options, *own]) == 0
    assert picture.stat().st_size > 20_000
