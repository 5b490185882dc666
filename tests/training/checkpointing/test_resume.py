"""Runs that stop and go on from a checkpoint, through the real launcher with 2 ranks."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.training.conftest import Ended, Run, Start, assert_same, last_weights, losses, wait_until
from yolo.architecture import parameter_count
from yolo.data.open import load_split
from yolo.recipe import prepare
from yolo.recipe.schema.distributed import Reducer
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext

pytestmark = pytest.mark.slow

ONE_BIT_ADAM = (
    *("optimizer.type=OneBitAdam", "optimizer.freeze_step=2"),
    "communication.check_weights_every=1",
)
ONE_BIT_LAMB = ("optimizer.type=OneBitLamb", "optimizer.freeze_step=2")
ZERO_ONE_ADAM = (
    *("optimizer.type=ZeroOneAdam", "optimizer.var_freeze_step=2", "optimizer.local_step_scaler=2"),
    "optimizer.var_update_scaler=1",
)
LOCAL_STEPS = ("communication.sync_every=2", "communication.outer_one_bit=true")
POWERSGD = ("communication.reducer=powersgd", "communication.powersgd_start_step=2")


STRATEGIES = {
    "1-bit Adam": ONE_BIT_ADAM,
    "1-bit LAMB": ONE_BIT_LAMB,
    "0/1 Adam": ZERO_ONE_ADAM,
    "local steps": LOCAL_STEPS,
    "PowerSGD": POWERSGD,
    **{
        reducer: (f"communication.reducer={reducer}",)
        for reducer in get_args(Reducer)
        if reducer not in ("deepspeed", "overlapped", "powersgd")
    },
}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_run_goes_on_from_an_earlier_checkpoint_as_if_never_stopped(
    run: Run, strategy: tuple[str, ...]
) -> None:
    settings = (*strategy, "train.epochs=3", "checkpoint.keep=3")
    whole = run("recipes/demo.yaml", *settings)
    expected = last_weights(whole)
    expected_losses, expected_summary = losses(whole), whole.read("summary.json")

    roll_back(whole, "epoch-0001")
    resumed = run("recipes/demo.yaml", *settings, "checkpoint.resume=auto")
    assert resumed.folder == whole.folder
    assert "Resumed from epoch 1" in resumed.output
    summary = resumed.read("summary.json")
    assert summary["resumed_from_epoch"] == 1
    for figure in ("steps", "wire_bytes_per_rank", "collectives_per_step"):
        assert summary[figure] == pytest.approx(expected_summary[figure]), figure
    assert losses(resumed)[-1] == expected_losses[-1]
    assert_same(last_weights(resumed), expected)


def roll_back(ended: Ended, tag: str) -> None:
    """Leave a run as one that stopped after an earlier checkpoint, without what it wrote after that."""
    checkpoints = ended.folder / "checkpoints"
    for later in ("finished", "summary.json", "metrics.jsonl", "weights/last.safetensors"):
        (ended.folder / later).unlink(missing_ok=True)
    assert (checkpoints / tag).is_dir()
    for later in [path for path in checkpoints.iterdir() if path.name > tag]:
        shutil.rmtree(later)


TWO_BY_TWO = ("sharding.data=2", "sharding.columns=2", "model.image_size=128")


@pytest.mark.parametrize("settings", [("zero.stage=0",), ("zero.stage=3",), TWO_BY_TWO])
def test_a_killed_run_goes_on_and_ends_where_it_would_have_ended(
    run: Run, start: Start, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    settings += ("train.epochs=3",)
    whole = run("recipes/demo.yaml", *settings)
    expected = last_weights(whole)
    expected_losses = losses(whole)

    process = start("recipes/demo.yaml", *settings)
    latest = tmp_path / "runs" / "demo" / "latest"
    first = whole.folder
    wait_until(process, lambda: latest.resolve() != first)
    newest = latest.resolve()
    wait_until(process, lambda: bool(RunDirectory(newest).published()))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (newest / "finished").exists()

    resumed = run("recipes/demo.yaml", *settings, "checkpoint.resume=auto")
    assert resumed.folder == newest
    assert "Resumed from epoch" in resumed.output
    summary, summary_of_whole = resumed.read("summary.json"), whole.read("summary.json")
    assert summary["resumed_from_epoch"] >= 1
    assert summary["steps"] == summary_of_whole["steps"]
    # Before it knows their order, in the first step after each start, stage 3 fetches the weights once more, and the small
    # ones, which then stay, twice.
    is_stage_3 = "zero.stage=3" in settings
    once_more = parameter_count("n", 4) * 4 / 2 if is_stage_3 else 0
    sent = summary_of_whole["wire_bytes_per_rank"] + once_more
    assert summary["wire_bytes_per_rank"] == pytest.approx(sent, rel=5e-3 if is_stage_3 else 1e-3)
    assert losses(resumed)[-1] == expected_losses[-1]
    assert_same(last_weights(resumed), expected)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    run: Run, ended: Ended
) -> None:
    (ended.folder / "finished").unlink()
    older, newest = sorted(RunDirectory(ended.folder).published())
    weights = newest / "weights.safetensors"
    torn = bytearray(weights.read_bytes())
    torn[len(torn) // 2] ^= 1
    weights.write_bytes(torn)
    again = run("recipes/demo.yaml", "checkpoint.resume=auto", "train.epochs=2")
    assert "epoch-0002: is skipped: weights.safetensors was altered" in again.output
    assert (
        f"Resumed from epoch 1 of {ended.folder.relative_to(ended.folder.parents[2])}"
        in again.output
    )
    assert (ended.folder / "checkpoints" / "epoch-0002.damaged").is_dir()
    # And none that is whole is an error, never a silent restart.
    (ended.folder / "finished").unlink()
    for folder in RunDirectory(ended.folder).published():
        for file in folder.glob("*.safetensors"):
            file.write_bytes(file.read_bytes()[:1000])
    again = run("recipes/demo.yaml", "checkpoint.resume=auto", fails=True)
    assert "none of epoch-0002.damaged, epoch-0001.damaged is valid" in again.output
    assert "checkpoint.resume=never" in again.output
    assert "Traceback" not in again.output
    assert older.name == "epoch-0001"


def must_equal(small_demo: Path, *overrides: str) -> dict[str, Any]:
    common = [f"data.root={small_demo}", "precision.dtype=fp32", *overrides]
    recipe = prepare(REPOSITORY / "recipes/demo.yaml", common, 2).resolved.recipe
    dataset = load_split(recipe.data, "train")
    ranks = DistributedContext(0, 0, 2, 2, torch.device("cpu"))
    return RunConfig.of(recipe, dataset, ranks).must_equal(is_within_epoch=False)


@pytest.mark.parametrize(
    "setting",
    [
        *("train.global_batch=4", "precision.dtype=bf16", "model.variant=s"),
        *("optimizer.weight_decay=0.01", "train.gradient_clipping=1"),
    ],
)
def test_what_a_checkpoint_must_have_alike(setting: str, small_demo: Path) -> None:
    """As the refusals above, without a launch each."""
    before, after = must_equal(small_demo), must_equal(small_demo, setting)
    assert {key for key in before if before[key] != after[key]} == {setting.split("=")[0]}


def test_a_checkpoint_must_have_the_same_optimizer(small_demo: Path) -> None:
    before, after = must_equal(small_demo), must_equal(small_demo, "optimizer.type=SGD")
    assert (before["optimizer.type"], after["optimizer.type"]) == ("AdamW", "SGD")


def test_a_resumed_run_says_which_settings_are_not_the_checkpoints(run: Run, ended: Ended) -> None:
    (ended.folder / "finished").unlink()
    settings = ("checkpoint.resume=auto", "train.epochs=3", "model.weights=removed.safetensors")
    again = run("recipes/demo.yaml", *settings)
    assert "train.epochs is now 3; the checkpoint was saved with 2" in again.output
    assert again.read("summary.json")["epochs"] == 3


def test_a_run_may_go_on_under_another_exchange(run: Run, ended: Ended) -> None:
    (ended.folder / "finished").unlink()
    last_loss = losses(ended)[-1]
    settings = ("checkpoint.resume=auto", "train.epochs=3", "communication.sync_every=2")
    again = run("recipes/demo.yaml", *settings)
    assert "communication.sync_every is now 2; the checkpoint was saved with 1" in again.output
    assert (
        "the state that local_steps keeps per rank starts from zero, including error feedback"
        in again.output
    )
    # From other weights than the checkpoint's the outer step would throw the network off.
    assert losses(again)[-1] < 1.1 * last_loss


def test_the_ranks_of_an_image_go_on_with_one_state(run: Run) -> None:
    """Local steps keep moments per rank, and ranks that had images of their own now share one."""
    settings = (*LOCAL_STEPS, "model.image_size=128")
    first = run("recipes/demo.yaml", *settings, "train.epochs=1")
    (first.folder / "finished").unlink()
    columns = ("sharding.columns=2", "communication.check_weights_every=1")
    again = run("recipes/demo.yaml", *settings, *columns, "checkpoint.resume=auto")
    assert "saved on 2 ranks with 1 columns of an image; the state that local_steps" in again.output
    assert again.code == 0, again.output


def test_a_finished_run_is_not_gone_on_with(run: Run, ended: Ended) -> None:
    again = run("recipes/demo.yaml", f"checkpoint.resume={ended.folder}", fails=True)
    assert "the run is finished; to train on, start a new run from its weights" in again.output
    best = ended.folder / "weights" / "best.safetensors"
    as_any_file = (ended.folder / "summary.json").stat().st_mode
    assert best.stat().st_mode == as_any_file  # so that colleagues can read it
    anew = run("recipes/demo.yaml", f"model.weights={best}", "checkpoint.resume=auto")
    assert "349 tensors loaded" in anew.output
    assert "checkpoint.resume auto: no unfinished run with a checkpoint since" in anew.output
