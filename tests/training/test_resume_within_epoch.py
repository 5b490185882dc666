"""A run that is killed within an epoch and goes on there, through the real launcher with 2 ranks."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import REPOSITORY
from tests.training.conftest import Ended
from tests.training.test_runs import losses, wait_until

Run = Callable[..., Ended]
Start = Callable[..., subprocess.Popen[str]]
pytestmark = pytest.mark.slow

SIX_STEPS = (
    *("train.global_batch=4", "train.epochs=3", "checkpoint.every_steps=4"),
    *("checkpoint.every_epochs=3", "evaluation.every_epochs=3", "tracking.log_every_steps=1"),
    *("precision.dtype=fp32", "data.augmentation.mosaic=0.5", "data.augmentation.mixup=0.5"),
)
"""24 images in steps of 4: checkpoints after steps 4 and 2 of the first two epochs, not at their ends."""


@pytest.mark.parametrize(
    "strategy",
    [("data.workers=1",), ("communication.sync_every=3", "data.workers=0")],
    ids=["plain", "local steps, which wait for the next exchange"],
)
def test_a_run_killed_within_an_epoch_ends_where_it_would_have_ended(
    run: Run, start: Start, tmp_path: Path, strategy: tuple[str, ...]
) -> None:
    goes_on_as_if_never_stopped(run, start, tmp_path, *strategy)


def test_a_run_on_shards_killed_within_an_epoch_ends_where_it_would_have_ended(
    run: Run, start: Start, small_demo: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    written = subprocess.run(
        [
            *(sys.executable, "-m", "yolo", "shard", str(REPOSITORY / "recipes" / "demo.yaml")),
            *(str(shards), "--shards", "5", f"data.root={small_demo}"),
        ],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert written.returncode == 0, written.stderr
    data = (
        *("data.format=shards", f"data.root={shards}", "data.train=train", "data.val=val"),
        *("data.workers=2", "data.shuffle_buffer=5", f"data.cache_folder={tmp_path / 'cache'}"),
    )
    ended = goes_on_as_if_never_stopped(run, start, tmp_path, *data)
    assert "data: 24 training and 9 validation images" in ended.output
    curve = losses(ended)
    assert curve[-1] < curve[0]


def goes_on_as_if_never_stopped(run: Run, start: Start, folder: Path, *settings: str) -> Ended:
    """Two runs of the same settings, one of them killed; returns the one that went on."""
    whole = run("recipes/demo.yaml", *SIX_STEPS, *settings)
    expected = load_file(whole.folder / "weights" / "last.safetensors")
    expected_losses = losses(whole)
    first = whole.folder.resolve()

    process = start("recipes/demo.yaml", *SIX_STEPS, *settings)
    latest = folder / "runs" / "demo" / "latest"
    wait_until(process, lambda: latest.resolve() != first)
    newest = latest.resolve()
    checkpoint = newest / "checkpoints" / "latest"
    wait_until(process, lambda: checkpoint.exists() and "-step-" in checkpoint.read_text())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    resumed = run("recipes/demo.yaml", *SIX_STEPS, *settings, "checkpoint.resume=auto")
    assert resumed.folder.resolve() == newest
    assert (
        "steps of the next of" in resumed.output
    )  # going on after epoch 0 and 4 steps of the next
    assert resumed.read("summary.json")["steps"] == whole.read("summary.json")["steps"] == 18
    assert losses(resumed)[-1] == expected_losses[-1]
    for name, tensor in load_file(resumed.folder / "weights" / "last.safetensors").items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)
    return resumed


def test_within_an_epoch_the_seed_must_stay(run: Run) -> None:
    """The epoch's other images would not be those that are left of it."""
    settings = (*SIX_STEPS, "train.epochs=1", "checkpoint.every_steps=5", "checkpoint.keep=9")
    ended = run("recipes/demo.yaml", *settings)
    (ended.folder / "finished").unlink()
    (ended.folder / "checkpoints" / "latest").write_text("epoch-0000-step-0000005")
    other = ("checkpoint.resume=auto", "train.seed=5")
    again = run("recipes/demo.yaml", *settings, *other, fails=True)
    assert "was saved with train.seed 0, and this run has 5" in again.output
    assert "Traceback" not in again.output
