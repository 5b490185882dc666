"""A cluster of two local ranks measured by `yolo calibrate`, then planned, verified and trained on by what was measured."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import ON_A_PROCESSOR, REPOSITORY, free_port
from tests.forking.server import run_forked
from tests.tracking.wandb_file import history, records
from tests.training.conftest import SMALL, Ended, run, small_demo, start
from yolo.calibration.calibrate import new_profile
from yolo.cli import main
from yolo.planner.cost.strategies import DDP, STRATEGY_COSTS
from yolo.planner.profile import ClusterProfile, read_profile
from yolo.recipe import prepare

__all__ = ["run", "small_demo", "start"]
pytestmark = pytest.mark.slow
RECIPE = "recipes/demo.yaml"


def yolo(log: Path, *arguments: str) -> str:
    """A command's output, on a processor."""
    command = [sys.executable, "-m", "yolo", *arguments, f"cluster.master_port={free_port()}"]
    ran = run_forked(command, REPOSITORY, ON_A_PROCESSOR | {"COLUMNS": "160"}, log)
    assert ran.returncode == 0, ran.stdout[-5000:]
    return ran.stdout


@pytest.fixture(scope="module")
def settings(small_demo: Path) -> tuple[str, ...]:
    return (f"data.root={small_demo}", *SMALL)


@pytest.fixture(scope="module")
def profile_file(settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("profiles") / "here.yaml"
    said = yolo(out.with_suffix(".log"), "calibrate", RECIPE, "--out", str(out), *settings)
    assert "plans with it" in said
    return out


def test_calibrating_measures_computing_packing_collectives_and_loading(profile_file: Path) -> None:
    profile = read_profile(profile_file)
    (measured,) = profile.measured
    assert (profile.ranks, measured.ranks) == (2, 2)
    assert measured.workload.classes == 4
    assert set(measured.local_seconds) == {DDP.key, *STRATEGY_COSTS}
    assert measured.backward_seconds > measured.forward_seconds * 0.5
    for kind, points in measured.collectives.items():
        sizes = [point.payload_bytes for point in points]
        assert sizes == sorted(set(sizes)), kind
        assert points[-1].payload_bytes > 1000 * points[0].payload_bytes, kind
    whole = measured.collectives["all_reduce"]
    assert whole[-1].seconds > whole[0].seconds
    assert measured.ready[0] == (0.0, 0.0)
    assert measured.ready[-1] == (1.0, 1.0)
    assert measured.loader_images_per_second is not None
    assert 10 < measured.loader_images_per_second < 1e6


def test_another_measurement_of_the_same_takes_the_olds_place(
    profile_file: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    profile = read_profile(profile_file)
    assert isinstance(profile, ClusterProfile)
    measured = ("--measured", str(profile_file), "--json")
    plan = json.loads(yolo(tmp_path / "log", "plan", RECIPE, *measured, *settings))
    assert len(plan["ranked"]) > 10


def test_a_profile_of_one_backend_gets_no_measurement_of_another(
    profile_file: Path, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = profile_file.read_bytes()
    words = ("calibrate", RECIPE, "--out", str(profile_file), *settings, "cluster.backend=mpi")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{profile_file}: backend: its collectives are gloo's, and cluster.backend of" in said
    assert profile_file.read_bytes() == before


def test_a_profile_keeps_the_backend_that_it_was_measured_with(
    profile_file: Path, settings: tuple[str, ...]
) -> None:
    (measured,) = read_profile(profile_file).measured
    for backend in ("gloo", "mpi"):
        resolved = prepare(RECIPE, [*settings, f"cluster.backend={backend}"]).resolved
        assert new_profile("here", resolved, measured).backend == backend


def test_verifying_sets_measured_seconds_and_bytes_beside_the_predicted(
    profile_file: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    measured = ("--measured", str(profile_file), "--verify", "1")
    said = yolo(tmp_path / "log", "plan", RECIPE, *measured, *settings)
    rows = [line.split() for line in said.splitlines() if line.count("%") == 2]
    assert 1 <= len(rows) <= 2, said
    for row in rows:
        predicted, measured, error = float(row[-6]), float(row[-5]), row[-4]
        assert predicted > 0 < measured
        assert float(error.rstrip("%")) == pytest.approx(100 * (predicted / measured - 1), abs=2)
        assert abs(float(row[-1].rstrip("%"))) <= 1.0, "bytes are exact"


def test_a_run_chooses_its_strategy_and_sets_what_was_predicted_beside_what_it_measures(
    run: Callable[..., Ended], profile_file: Path
) -> None:
    settings = ("strategy=auto", "tracking.wandb.mode=offline")
    ended = run(RECIPE, *settings, f"cluster.profile={profile_file}")
    assert "strategy auto: " in ended.output
    plan: dict[str, Any] = ended.read("plan.json")
    first = plan["ranked"][0]
    assert first["keeps_ap"]
    recipe = YAML(typ="safe").load(ended.folder / "recipe.yaml")
    assert recipe["strategy"] == "as_written"
    for override in first["overrides"]:
        key, _, wanted = override.partition("=")
        value = recipe
        for word in key.split("."):
            value = value[word]
        assert wanted in (str(value).lower(), str(value), "auto"), override
    compared = ended.read("summary.json")["plan"]
    for what in ("step", "sent_by_a_rank", "parameters", "optimizer"):
        assert compared[what]["predicted"] > 0 < compared[what]["measured"], what
    for what in ("parameters", "optimizer"):
        assert compared[what]["predicted"] == pytest.approx(compared[what]["measured"], rel=0.05)
    logged = [row for row in ended.metrics() if "plan/step_seconds_predicted" in row]
    assert logged
    assert all(row["plan/step_seconds_measured"] > 0 for row in logged)
    assert "Predicted and measured" in (ended.folder / "report.html").read_text()
    rows = history(ended.folder)
    assert any("plan/wire_bytes_predicted" in row for row in rows)
    assert any(
        "plan/predicted_and_measured._type" in row or "plan/predicted_and_measured" in row
        for row in rows
    )
    summaries = {
        item.key or ".".join(item.nested_key)
        for record in records(ended.folder)
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert "plan/step_measured" in summaries
