import json
import math
import resource
import signal
from pathlib import Path

from tests.tracking.synthetic_records import evaluation, step_metrics
from yolo.tracking.history import read_history
from yolo.tracking.metrics_log import MetricsLog


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_record_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    log = MetricsLog(path)
    log.step(step_metrics(10, 0.5))
    (record,) = lines(path)
    assert (record["kind"], record["step"], record["epoch"]) == ("step", 10, 0.5)
    assert record["train/loss"] == 4.0
    log.evaluation(20, 1, evaluation(ap=0.25))
    assert lines(path)[1]["validation/AP"] == 0.25


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "m").step(step_metrics(1, 0.1, loss_box=math.nan))
    (record,) = lines(tmp_path / "m")
    assert record["train/loss_box"] is None
    assert record["train/loss"] is None
    assert record["train/loss_obj"] == 2.0


def test_a_resumed_run_appends_and_a_torn_line_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m"
    MetricsLog(path).step(step_metrics(10, 0.5))
    with path.open("a") as file:
        file.write('{"kind": "step", "st')
    MetricsLog(path).step(step_metrics(20, 1.0))
    assert [point.epoch for point in read_history(path).losses] == [0.5, 1.0]


def test_steps_that_a_resume_repeats_count_once(tmp_path: Path) -> None:
    path = tmp_path / "m"
    log = MetricsLog(path)
    for step in (10, 20, 30):
        log.step(step_metrics(step, step / 20))
        if step == 20:
            log.evaluation(20, 1, evaluation(ap=0.1))
    resumed = MetricsLog(path)
    resumed.step(step_metrics(20, 1.0, loss_box=9.0))
    resumed.evaluation(20, 1, evaluation(ap=0.2))
    resumed.step(step_metrics(30, 1.5))
    history = read_history(path)
    assert [(point.epoch, point.box) for point in history.losses] == [
        (0.5, 1.5),
        (1, 9),
        (1.5, 1.5),
    ]
    assert [point.ap for point in history.precisions] == [0.2]


def test_a_run_without_a_log_has_an_empty_history(tmp_path: Path) -> None:
    history = read_history(tmp_path / "nothing")
    assert (history.losses, history.precisions) == ((), ())


def test_what_a_full_disk_does_not_take_is_written_when_it_has_room_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    warnings: list[str] = []
    metrics = MetricsLog(path, warnings.append)
    metrics.step(step_metrics(1, 0.1))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # A limit on a file's size is met as a full disk is: some bytes of the record fit, the rest do not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, unlimited[1]))
        metrics.step(step_metrics(2, 0.2))
        metrics.step(step_metrics(3, 0.3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, before)
    assert len(path.read_text().splitlines()) == 1
    metrics.step(step_metrics(4, 0.4))
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert len(warnings) == 1 and "training continues" in warnings[0]
