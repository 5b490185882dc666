import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from tests.tracking.synthetic_records import evaluation, sample, step_metrics
from tests.tracking.wandb_file import history, records
from yolo.recipe.schema.recipe import ResolvedWandb
from yolo.tracking.wandb_run import WandbRun

METRICS = evaluation()
CONFIG = {"train": {"epochs": 3, "global_batch": 16}, "model": {"variant": "n"}}


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run folder after a whole run and a resumed one."""

    directory: Path
    warnings: list[str] = field(default_factory=list)

    def start(self, **settings: Any) -> WandbRun:
        section = ResolvedWandb(tags=("demo", "cpu"), **{"upload_weights": True} | settings)
        return WandbRun.start(
            section, self.directory, "demo run", CONFIG, warn=self.warnings.append
        )

    def of_kind(self, kind: str) -> list[Any]:
        found: list[Record] = records(self.directory)
        return [getattr(r, kind) for r in found if r.WhichOneof("record_type") == kind]

    def rows_with(self, figure: str) -> list[dict[str, Any]]:
        return [row for row in history(self.directory) if figure in row]

    def media(self, place: str) -> Any:
        """A JSON file that a logged figure points to."""
        (path,) = self.directory.glob(f"wandb/offline-run-*/files/{place}")
        return json.loads(path.read_text())


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """A run that failed stays open until the process ends; here that is the end of the test."""
    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedRun]:
    recorded = RecordedRun(tmp_path_factory.mktemp("run"))
    weights = recorded.directory / "best.safetensors"
    weights.write_bytes(b"weights" * 100)

    first = recorded.start()
    first.log_step(step_metrics(10, 0.5))
    first.log_step(step_metrics(20, 1.0))
    first.log_evaluation(20, 1, METRICS, [sample("a.jpg"), sample("b.jpg")])
    first.finish(exit_code=1)

    resumed = recorded.start()
    resumed.log_step(step_metrics(30, 1.5, loss_box=float("nan")))
    resumed.log_weights(weights)
    resumed.finish()
    yield recorded
    assert recorded.warnings == []


def test_steps_have_figures_with_units_over_the_optimizer_step(run: RecordedRun) -> None:
    rows = run.rows_with("train/loss")
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert [row["_step"] for row in rows] == [10, 20, 30]
    assert rows[0]["train/loss"] == 4.0
    assert rows[0]["speed/images_per_second"] == 120
    assert rows[0]["communication/wire_bytes_per_step"] == 3.5e6
    assert rows[0]["communication/seconds_per_step"] == 0.02
    assert rows[0]["data/wait_seconds_per_step"] == 0.001


def test_evaluations_have_coco_figures_over_the_epoch(run: RecordedRun) -> None:
    (row,) = run.rows_with("validation/AP")
    assert row["epoch"] == 1
    assert row["validation/AP"] == METRICS.ap
    assert row["validation/AP50"] == METRICS.ap50
    assert row["validation/AR100"] == METRICS.ar100


def test_the_axes_are_declared(run: RecordedRun) -> None:
    axes = {metric.glob_name or metric.name: metric.step_metric for metric in run.of_kind("metric")}
    assert axes["train/*"] == axes["communication/*"] == "step"
    assert axes["validation/*"] == axes["validation/AP"] == "epoch"


def test_the_class_table_has_a_row_a_class(run: RecordedRun) -> None:
    table = run.media("media/table/validation/classes_*.json")
    assert table["columns"][:4] == ["class", "images", "boxes", "AP"]
    first = METRICS.per_class[0]
    assert table["data"][0][:4] == [first.name, first.images, first.boxes, first.ap]
    assert len(table["data"]) == 3


def test_precision_recall_curves_are_there_point_by_point(run: RecordedRun) -> None:
    table = run.media("media/table/validation/precision_recall_table_*.json")
    names = [row[0] for row in table["data"]]
    assert {name: names.count(name) for name in names} == {
        "all classes": 101,
        **{one.name: 101 for one in METRICS.per_class},
    }


def test_the_confusion_matrix_is_there_cell_by_cell(run: RecordedRun) -> None:
    table = run.media("media/table/validation/confusion_table_*.json")
    assert table["columns"] == ["Actual", "Predicted", "nPredictions"]
    labels, counts = METRICS.confusion.labels, METRICS.confusion.counts
    cells = {(actual, predicted): count for actual, predicted, count in table["data"]}
    assert cells[labels[0], labels[0]] == counts[0, 0]
    assert cells[labels[1], "background"] == counts[1, 3]
    assert len(cells) == 16


def test_pictures_have_predicted_and_true_boxes_with_names_and_scores(run: RecordedRun) -> None:
    (row,) = run.rows_with("validation/samples.filenames")
    assert row["validation/samples.captions"] == ["a.jpg", "b.jpg"]
    layers = row["validation/samples.all_boxes"][0]
    predicted = run.media(layers["predicted"]["path"])["box_data"]
    assert predicted[0]["box_caption"] == "class 0 0.91"
    assert predicted[0]["scores"] == {"score": 0.91}
    assert predicted[1]["position"] == {"minX": 25, "maxX": 35, "minY": 5, "maxY": 28}
    (true,) = run.media(layers["true"]["path"])["box_data"]
    assert (true["box_caption"], true["class_id"]) == ("class 0", 0)


def test_name_tags_and_config_are_those_of_the_recipe(run: RecordedRun) -> None:
    started = run.of_kind("run")[0]
    assert started.display_name == "demo run"
    assert list(started.tags) == ["demo", "cpu"]
    assert started.project == "yolov5-deepspeed"
    config = {entry.key: json.loads(entry.value_json) for entry in started.config.update}
    assert config["train"] == CONFIG["train"]


def test_a_resumed_run_goes_on_under_its_id(run: RecordedRun) -> None:
    started = run.of_kind("run")
    assert len(started) == 2
    assert {entry.run_id for entry in started} == {(run.directory / "wandb_id").read_text().strip()}


def test_the_exit_code_says_how_it_ended(run: RecordedRun) -> None:
    assert [entry.exit_code for entry in run.of_kind("exit")] == [1, 0]


def test_the_weights_are_an_artifact_that_waits_in_the_run_folder(run: RecordedRun) -> None:
    (artifact,) = [entry for entry in run.of_kind("artifact") if entry.type == "model"]
    (content,) = artifact.manifest.contents
    assert content.path == "best.safetensors"
    assert content.size == 700
    assert "best" in artifact.aliases
    assert Path(content.local_path).is_relative_to(run.directory)
    assert Path(content.local_path).read_bytes() == b"weights" * 100


def test_the_environment_is_left_as_it_was(run: RecordedRun) -> None:
    assert "WANDB_DATA_DIR" not in os.environ


def test_weights_stay_where_they_are_unless_asked_for(tmp_path: Path) -> None:
    recorded = RecordedRun(tmp_path)
    started = recorded.start(upload_weights=False)
    started.log_weights(tmp_path / "there is no such file")
    assert started.is_recording
    started.finish()
    assert recorded.of_kind("artifact") == []


def test_the_folders_own_id_is_used_and_kept(tmp_path: Path) -> None:
    (tmp_path / "wandb_id").write_text("abcd1234")
    WandbRun.start(ResolvedWandb(upload_weights=True), tmp_path, "name", {}).finish()
    assert [entry.run_id for entry in RecordedRun(tmp_path).of_kind("run")] == ["abcd1234"]
    assert (tmp_path / "wandb_id").read_text() == "abcd1234\n"


def test_other_ranks_and_disabled_runs_write_nothing(tmp_path: Path) -> None:
    recorded = RecordedRun(tmp_path)
    for silent in (WandbRun(recorded.warnings.append), recorded.start(mode="disabled")):
        silent.log_step(step_metrics(1, 0.1))
        silent.log_evaluation(1, 1, METRICS, [sample()])
        silent.log_weights(tmp_path / "best.safetensors")
        silent.finish()
        assert not silent.is_recording
    assert list(tmp_path.iterdir()) == []
    assert recorded.warnings == []


def test_a_start_that_fails_is_reported_once_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise wandb.errors.CommError("no\nservice")

    monkeypatch.setattr(wandb, "init", fail)
    recorded = RecordedRun(tmp_path)
    started = recorded.start()
    started.log_step(step_metrics(1, 0.1))
    started.finish()
    assert recorded.warnings == [
        "W&B: starting failed, nothing more is recorded there: CommError: no service"
    ]


def test_a_folder_that_cannot_be_written_is_reported_and_survived(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    recorded = RecordedRun(tmp_path / "file")
    recorded.start().log_step(step_metrics(1, 0.1))
    assert len(recorded.warnings) == 1
    assert "starting failed" in recorded.warnings[0]


def test_a_failure_while_logging_is_reported_once_and_survived(tmp_path: Path) -> None:
    recorded = RecordedRun(tmp_path)
    started = recorded.start()
    started.log_weights(tmp_path / "there is no such file")
    started.log_step(step_metrics(1, 0.1))
    started.log_evaluation(1, 1, METRICS)
    assert not started.is_recording
    assert len(recorded.warnings) == 1
    assert "logging the weights failed" in recorded.warnings[0]


def test_online_without_a_key_is_written_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no netrc"))
    recorded = RecordedRun(tmp_path / "run")
    started = recorded.start(mode="online")
    started.log_step(step_metrics(1, 0.1))
    started.finish()
    assert recorded.warnings == [
        "W&B: no API key, so the run is written offline; set WANDB_API_KEY"
    ]
    assert len(recorded.rows_with("train/loss")) == 1


def test_online_without_a_network_is_written_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = wandb.init

    def offline_only(**arguments: Any) -> wandb.Run:
        if arguments["mode"] == "online":
            raise wandb.errors.CommError("timed out")
        return real(**arguments)

    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "init", offline_only)
    recorded = RecordedRun(tmp_path)
    started = recorded.start(mode="online")
    started.log_step(step_metrics(1, 0.1))
    started.finish()
    assert recorded.warnings == [
        "W&B: not reached (CommError: timed out), so the run is written offline"
    ]
    assert len(recorded.rows_with("train/loss")) == 1


KILLED = """
import os, signal, sys, time
from pathlib import Path
from tests.tracking.synthetic_records import evaluation, step_metrics
from yolo.recipe.schema.recipe import ResolvedWandb
from yolo.tracking.wandb_run import WandbRun

run = WandbRun.start(ResolvedWandb(upload_weights=True), Path(sys.argv[1]), "killed", {})
run.log_step(step_metrics(10, 1.0))
run.log_evaluation(10, 1, evaluation())
time.sleep(2.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_no_evaluation(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=60,
    )
    assert ran.returncode == -signal.SIGKILL
    (row,) = RecordedRun(tmp_path).rows_with("validation/AP")
    assert row["train/loss"] == 4.0
