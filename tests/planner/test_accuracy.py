import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.planner.conftest import measured_accuracy
from yolo.bench.accuracy import stated
from yolo.cli import main
from yolo.errors import PlanError
from yolo.planner import plan
from yolo.planner.accuracy import LOSS_BOUND, REFERENCE, SHIPPED, MeasuredAccuracy
from yolo.planner.cost.strategies import strategy_of
from yolo.planner.hardware_catalog import cluster
from yolo.planner.plan import choose, make_plan
from yolo.planner.prediction import Data
from yolo.recipe import load_recipe, prepare

COCO = REPOSITORY / "recipes/coco/yolov5l.yaml"
ADAM = ("train.global_batch=512", "optimizer.type=AdamW", "optimizer.lr=0.001")
SLOW = "4x8xa100-1gbe"
DATA = Data(118_287, 80)
POWERSGD = ("communication.reducer=powersgd",)


def kept(measured: MeasuredAccuracy, *overrides: str) -> str:
    return str(measured.kept(prepare(COCO, [*ADAM, *overrides], 32, 8).resolved.recipe))


def use(measured: MeasuredAccuracy, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the shipped measurement."""
    path.write_text(json.dumps(asdict(measured)))
    monkeypatch.setattr(plan, "SHIPPED", path)


def test_a_measured_change_holds_for_the_same_settings_only() -> None:
    measured = measured_accuracy(powersgd=-0.1, local_steps=-0.2, onebit_adam=-0.003)
    assert kept(measured, *POWERSGD) == "-0.100"
    assert kept(measured, *POWERSGD, "communication.powersgd_rank=4") == "not measured"
    assert kept(measured, *POWERSGD, "communication.data_type=bf16") == "not measured"
    assert kept(measured, "communication.sync_every=8") == "-0.200"
    assert kept(measured, "communication.sync_every=4") == "not measured"
    assert kept(measured, "optimizer.type=OneBitAdam") == "-0.003"
    assert kept(measured, "optimizer.type=OneBitAdam", "optimizer.freeze_step=9") == "not measured"


def test_strategies_that_round_gradients_alike_share_a_measurement() -> None:
    measured = measured_accuracy(overlapped_bf16=-0.005, zero1_reduce=-0.007)
    bf16 = "communication.data_type=bf16"
    assert kept(measured, bf16, "communication.reducer=overlapped") == "-0.005"
    assert kept(measured, bf16) == "-0.005"
    assert kept(measured, "zero.stage=1") == "-0.007"
    assert kept(measured, "zero.stage=1", "precision.dtype=fp32") == "same gradients"


def test_the_same_gradients_need_no_measurement() -> None:
    measured = measured_accuracy(overlapped=0.002)
    assert kept(measured) == "same gradients"
    assert kept(measured, "communication.reducer=overlapped") == "+0.002"


def test_the_mean_is_over_the_seeds_that_both_have() -> None:
    measured = measured_accuracy(powersgd=-0.1)
    first = tuple(run for run in measured.runs if (run.strategy, run.seed) != ("powersgd", 1))
    assert replace(measured, runs=first).change("powersgd") == pytest.approx(-0.1)


def test_a_strategy_that_lost_ap_is_listed_and_not_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", str(COCO), *ADAM, "--cluster", SLOW]
    use(measured_accuracy(), tmp_path / "fine.json", monkeypatch)
    assert main([*arguments, "--json"]) == 0
    fine = json.loads(capsys.readouterr().out)["ranked"][0]["strategy"]
    assert fine == "PowerSGD rank 2"

    failing = measured_accuracy(powersgd=-LOSS_BOUND - 0.001, onebit_adam=-0.05)
    use(failing, tmp_path / "failing.json", monkeypatch)
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first = found["ranked"][0]
    assert (first["strategy"], first["ap_kept"]) == ("overlapped, bf16 wire", "+0.000")
    lost = next(each for each in found["ranked"] if each["strategy"] == fine)
    assert (lost["ap_kept"], lost["keeps_ap"]) == ("-0.011", False)
    assert found["accuracy"]["setup"]["base"] == "synthetic.yaml"
    reasons = "\n".join(found["reasons"])
    assert "PowerSGD rank 2 would be" in reasons
    assert "times as fast, but lost 0.011 AP on synthetic.yaml" in reasons

    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "AP kept" in shown
    assert "measured on synthetic.yaml: yolov5n at 64 pixels, 100 images" in shown


def test_a_strategy_that_was_not_measured_is_not_first() -> None:
    none = replace(measured_accuracy(), runs=measured_accuracy().runs[:2])
    plan = make_plan(load_recipe(COCO, ADAM), cluster(SLOW), data=DATA, measured=none)
    assert str(plan.first.accuracy) == "same gradients"
    assert "not measured" in {str(each.accuracy) for each in plan.ranked}
    assert any("its AP was not measured with these settings" in line for line in plan.reasons)


@pytest.mark.parametrize(("change", "is_taken"), [(-LOSS_BOUND + 0.001, True), (-0.02, False)])
def test_auto_takes_only_what_keeps_the_ap(
    change: float,
    is_taken: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(measured_accuracy(powersgd=change), tmp_path / "measured.json", monkeypatch)
    settings = [*ADAM, "strategy=auto", f"cluster.profile={SLOW}", "cluster.nodes=4"]
    choice = choose(prepare(COCO, settings, 32, 8).resolved, DATA)
    assert (choice.overrides[0] == POWERSGD[0]) is is_taken
    assert choice.plan.first.accuracy.is_kept
    assert any("PowerSGD rank 2 would be" in reason for reason in choice.reasons) is not is_taken


def test_a_recipe_whose_own_strategy_lost_ap_is_warned_about() -> None:
    loaded = load_recipe(COCO, [*ADAM, *POWERSGD])
    lost = measured_accuracy(powersgd=-0.1)
    reasons = make_plan(loaded, cluster(SLOW), data=DATA, measured=lost).reasons
    warning = "warning: PowerSGD rank 2 (as written): this strategy lost 0.100 AP on synthetic.yaml"
    assert warning in reasons
    reasons = make_plan(loaded, cluster(SLOW), data=DATA, measured=measured_accuracy()).reasons
    assert warning not in reasons


def test_every_shipped_recipe_was_measured_as_it_is() -> None:
    """After a change of a recipe or a default: `make bench-accuracy`, then the same with --ship."""
    shipped = MeasuredAccuracy.read(SHIPPED)
    recipes = {path.stem: path for path in (REPOSITORY / "recipes/communication").glob("*.yaml")}
    assert shipped.strategies.keys() == {REFERENCE, *recipes}
    for run in shipped.runs:
        own = stated(recipes[run.strategy]) if run.strategy != REFERENCE else ()
        precision = f"precision.dtype={run.precision}"
        recipe = prepare(REPOSITORY / shipped.setup.base, (*own, precision)).resolved.recipe
        cost = strategy_of(recipe)
        assert (cost.key, cost.learning_settings_of(recipe)) == (run.key, run.settings), run


def test_a_file_that_is_no_measurement_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    path.write_text('{"setup": {}, "runs": []}')
    with pytest.raises(PlanError, match=r"wrong\.json: is no measurement of accuracy"):
        MeasuredAccuracy.read(path)
