"""A disk that is full when training ends."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.training.conftest import (
    DEMO,
    Ended,
    Process,
    Start,
    assert_same,
    last_weights,
    running_in,
    wait_until,
)
from yolo.bench.chaos.faults import fill_up, small_disk
from yolo.errors import BenchError

pytestmark = pytest.mark.slow(30)

WAITS = "training is done, and its result waits"


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """The folder `runs`, on a disk of 128 MiB."""
    with ExitStack() as disk:
        try:
            disk.enter_context(small_disk(tmp_path / "runs", 128))
        except BenchError as error:
            pytest.skip(f"no disk can be mounted: {error}")
        yield tmp_path / "runs"


@pytest.fixture
def waiting(start: Start, runs: Path) -> Process:
    """A run whose result finds the disk full."""
    process = start(DEMO, "train.epochs=3")
    wait_until(process, (runs / "demo" / "latest" / "checkpoints" / "epoch-0001").is_dir)
    fill_up(runs / "filler")
    wait_until(process, lambda: WAITS in (runs.parent / "output-0").read_text())
    return process


def test_the_result_waits_for_space(
    waiting: Process, runs: Path, small_demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = (runs / "demo" / "latest").resolve()
    assert not (folder / "finished").exists()
    (runs / "filler").unlink()
    output, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, output
    undisturbed = running_in(tmp_path_factory.mktemp("undisturbed"), small_demo)(
        DEMO, "train.epochs=3"
    )
    ended = Ended(0, output, folder)
    assert_same(last_weights(ended), last_weights(undisturbed))
    assert (folder / "finished").exists() and (folder / "report.html").exists()
    assert len(ended.metrics()) == len(undisturbed.metrics())


def test_a_waiting_result_can_be_given_up(waiting: Process, runs: Path) -> None:
    waiting.terminate()
    output, _ = waiting.communicate(timeout=60)
    assert waiting.returncode not in (0, None)
    assert "the run's result could not be written" in output and "resumes from epoch-0001" in output
    assert not (runs / "demo" / "latest" / "finished").exists()
