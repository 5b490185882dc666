"""The figure of a step, by `yolo plan --timeline`."""

import itertools
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from yolo.cli import main
from yolo.planner.cost.strategies import GradientFidelity
from yolo.planner.hardware_catalog import cluster
from yolo.planner.plan import make_plan
from yolo.planner.prediction import Data
from yolo.planner.scaling import scaling_points
from yolo.planner.step_figure import step_times
from yolo.recipe import load_recipe

COCO = REPOSITORY / "recipes/coco/yolov5s.yaml"
ADAM = ["optimizer.type=AdamW", "optimizer.lr=0.001"]


def test_the_rows_of_a_figure_are_steps_as_the_plan_predicts_them() -> None:
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


def test_local_steps_are_left_out_and_the_figure_is_written(tmp_path: Path) -> None:
    figure = tmp_path / "new" / "step.png"
    own = ["communication.sync_every=4", "train.global_batch=64"]
    loaded = load_recipe(COCO, own)
    plan = make_plan(loaded, cluster("2x4xa100-10gbe"), data=Data(118_287, 80))
    assert plan.as_written.label not in step_times(loaded, plan)
    assert (
        main(["plan", str(COCO), "--cluster", "2x4xa100-10gbe", "--timeline", str(figure), *own])
        == 0
    )
    assert figure.stat().st_size > 20_000


def test_one_rank_has_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "step.png"
    assert main(["plan", str(COCO), "--cluster", "1xa100", "--timeline", str(figure)]) == 2
    assert "one rank communicates nothing" in capsys.readouterr().err
    assert not figure.exists()


@pytest.mark.parametrize("own", [("zero.stage=2",), ("communication.reducer=powersgd",)])
def test_the_curves_of_scaling_do_not_depend_on_the_strategy_as_written(
    own: tuple[str, ...],
) -> None:
    found = [
        scaling_points(
            load_recipe(COCO, [*ADAM, *more]), cluster("4x8xa100-10gbe"), Data(118_287, 80)
        )
        for more in ((), own)
    ]
    assert found[0] == found[1]
