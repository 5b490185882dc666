"""A run that is killed within an epoch and goes on there, through the real launcher with 2 ranks."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ON_A_PROCESSOR, REPOSITORY
from tests.forking.server import run_forked
from tests.training.checkpointing.test_resume import roll_back
from tests.training.conftest import Ended, Run, Start, assert_same, last_weights, losses, wait_until
from yolo.data.shards.reader import open_shards
from yolo.data.shards.writer import shard_split
from yolo.recipe import prepare
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.metadata import CheckpointMetadata
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext

pytestmark = pytest.mark.slow

SIX_STEPS = (
    *("train.global_batch=4", "train.epochs=3", "checkpoint.every_steps=4"),
    *("checkpoint.every_epochs=3", "evaluation.every_epochs=3", "tracking.log_every_steps=1"),
    *("precision.dtype=fp32", "data.augmentation.mosaic=0.5", "data.augmentation.mixup=0.5"),
)
"""24 images in steps of 4: checkpoints after steps 4 and 2 of the first two epochs, not at their ends."""


def test_a_run_killed_within_an_epoch_ends_where_it_would_have_ended(
    run: Run, start: Start, tmp_path: Path
) -> None:
    ended = goes_on_as_if_never_stopped(run, "data.workers=1", kill=(start, tmp_path))
    # With another seed the epoch's other images would not be those that are left of it.
    roll_back(ended, "epoch-0002-step-0000004")
    other = ("data.workers=1", "checkpoint.resume=auto", "train.seed=5")
    again = run("recipes/demo.yaml", *SIX_STEPS, *other, fails=True)
    assert "was saved with train.seed 0, and this run has 5" in again.output
    assert "Traceback" not in again.output


def test_a_checkpoint_within_an_epoch_waits_until_ranks_have_the_same_weights(
    run: Run,
) -> None:
    """They exchange every 3 steps: what is due after step 8, 2 in its epoch, is saved after 9."""
    settings = ("communication.sync_every=3", "checkpoint.keep=9")
    ended = goes_on_as_if_never_stopped(run, *settings, tag="epoch-0001-step-0000003")
    assert (ended.folder / "checkpoints" / "epoch-0001-step-0000003").is_dir()


def test_a_run_on_shards_killed_within_an_epoch_ends_where_it_would_have_ended(
    run: Run, small_demo: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    command = (
        *(sys.executable, "-m", "yolo", "shard", str(REPOSITORY / "recipes" / "demo.yaml")),
        *(str(shards), "--shards", "5", f"data.root={small_demo}"),
    )
    written = run_forked(command, tmp_path, ON_A_PROCESSOR, tmp_path / "written")
    assert written.returncode == 0, written.stdout
    data = (
        *("data.format=shards", f"data.root={shards}", "data.train=train", "data.val=val"),
        *("data.workers=2", "data.shuffle_buffer=5", f"data.cache_folder={tmp_path / 'cache'}"),
        "checkpoint.keep=9",
    )
    ended = goes_on_as_if_never_stopped(run, *data)
    assert "data: 24 training and 9 validation images" in ended.output
    curve = losses(ended)
    assert curve[-1] < curve[0]
    # Another number of workers would share the rest of the epoch out otherwise.
    roll_back(ended, "epoch-0002-step-0000004")
    other = (*data, "data.workers=1", "checkpoint.resume=auto")
    again = run("recipes/demo.yaml", *SIX_STEPS, *other, fails=True)
    assert "was saved with data.workers 2, and this run has 1" in again.output


def test_who_is_asked_to_leave_at_an_epochs_end_does_so_before_it_is_evaluated(
    run: Run, start: Start, tmp_path: Path
) -> None:
    """An evaluation may take longer than there is time; it is made up for. Here every step ends an epoch."""
    settings = ("train.global_batch=24", "train.epochs=12", "tracking.log_every_steps=1")
    whole = run("recipes/demo.yaml", *settings)
    process = start("recipes/demo.yaml", *settings)
    latest = tmp_path / "runs" / "demo" / "latest"
    wait_until(process, lambda: latest.resolve() != whole.folder)
    metrics = latest / "metrics.jsonl"
    wait_until(process, lambda: metrics.exists() and metrics.stat().st_size > 0)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    left = RunDirectory(latest).newest_checkpoint
    assert left is not None and CheckpointMetadata.read(left).progress.owes_evaluation

    resumed = run("recipes/demo.yaml", *settings, "checkpoint.resume=auto")
    assert resumed.folder == left.parents[1].resolve()
    evaluated = [
        [row["validation/AP"] for row in ended.metrics() if "validation/AP" in row]
        for ended in (whole, resumed)
    ]
    assert evaluated[0] == evaluated[1] and len(evaluated[0]) == 12
    expected = last_weights(whole)
    assert_same(last_weights(resumed), expected)


def test_other_shards_of_the_same_images_do_not_fit_within_an_epoch(
    small_demo: Path, tmp_path: Path
) -> None:
    """As the refusal above, without a launch: what was left of the epoch lies elsewhere in them."""

    def fixed(name: str, seed: int) -> dict[str, Any]:
        files = [f"data.root={small_demo}", f"train.seed={seed}"]
        source = prepare(REPOSITORY / "recipes/demo.yaml", files, 2).resolved.recipe
        shard_split(source, "train", tmp_path / name, 256, 3)
        streamed = ["data.format=shards", f"data.root={tmp_path / name}"]
        streamed += ["data.train=train", "data.val=val"]
        recipe = prepare(REPOSITORY / "recipes/demo.yaml", streamed, 2).resolved.recipe
        shards = open_shards(recipe.data, "train")
        ranks = DistributedContext(0, 0, 2, 2, torch.device("cpu"))
        return RunConfig.of(recipe, shards, ranks).must_equal(is_within_epoch=True)

    once, again, other = fixed("once", 0), fixed("again", 0), fixed("other", 1)
    assert once == again
    assert {key for key in once if once[key] != other[key]} == {"data.shards"}


def goes_on_as_if_never_stopped(
    run: Run,
    *settings: str,
    tag: str = "epoch-0001-step-0000002",
    kill: tuple[Start, Path] | None = None,
) -> Ended:
    """A run, and the same from an earlier checkpoint on; with `kill` that is another one's, which was killed."""
    whole = run("recipes/demo.yaml", *SIX_STEPS, *settings)
    expected = last_weights(whole)
    expected_losses = losses(whole)
    stopped = whole.folder
    if kill is None:
        roll_back(whole, tag)
    else:
        start, folder = kill
        process = start("recipes/demo.yaml", *SIX_STEPS, *settings)
        latest = folder / "runs" / "demo" / "latest"
        wait_until(process, lambda: latest.resolve() != stopped)
        stopped = latest.resolve()
        checkpoints = RunDirectory(stopped)
        wait_until(process, lambda: any("-step-" in path.name for path in checkpoints.published()))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    resumed = run("recipes/demo.yaml", *SIX_STEPS, *settings, "checkpoint.resume=auto")
    assert resumed.folder == stopped
    assert "steps of the next of" in resumed.output
    assert resumed.read("summary.json")["steps"] == 18
    assert losses(resumed)[-1] == expected_losses[-1]
    assert_same(last_weights(resumed), expected)
    return resumed
