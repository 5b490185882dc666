"""The main job on a small data set, through the real launcher with 2 ranks."""

import contextlib
import ctypes
import json
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from filelock import FileLock
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch.utils.cpp_extension import _get_build_directory

from tests.conftest import HAS_CPU_ADAM
from tests.tracking.wandb_file import history, records
from tests.training.conftest import DEMO, Ended, Run, Start, last_weights, losses, wait_until
from yolo.architecture import parameter_count
from yolo.training.checkpointing.run_directory import RunDirectory

pytestmark = pytest.mark.slow


def test_a_network_of_four_levels_trains(run: Run) -> None:
    ended = run("recipes/demo.yaml", "model.variant=n6", "model.image_size=128", "train.epochs=1")
    rows = [row for row in ended.metrics() if "train/loss_box" in row]
    assert rows and all(math.isfinite(row["train/loss_box"]) for row in rows)
    trained = load_file(ended.folder / "weights" / "last.safetensors")
    assert len(trained) == 459
    assert trained["model.33.anchors"].shape == (4, 3, 2)
    payload = parameter_count("n6", 4) * 4 + 4 * 4 + 12
    assert ended.read("summary.json")["payload_bytes_per_step_per_rank"] == payload


def has_ended(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def test_a_run_leaves_everything_it_promises(ended: Ended) -> None:
    assert (ended.folder.parent / "latest").resolve() == ended.folder
    for name in (
        *("recipe.yaml", "deepspeed.json", "summary.json", "metrics.jsonl", "report.html"),
        *("weights/last.safetensors", "weights/best.safetensors", "finished", "data_report.json"),
    ):
        assert (ended.folder / name).stat().st_size > 0, name
    assert list((ended.folder / "wandb").glob("offline-run-*/*.wandb"))
    summary = ended.read("summary.json")
    assert summary["world_size"] == 2
    assert summary["steps"] == 6
    assert 0 <= summary["ap"] <= summary["ap50"] <= 1
    assert summary["images_per_second"] > 0 < summary["wall_seconds"]
    # Stage 0 averages yolov5n's gradients in fp32: with 2 ranks each sends all of them once, the 3 match counts,
    # and the guard's three numbers.
    payload = parameter_count("n", 4) * 4 + 12 + 12
    assert summary["payload_bytes_per_step_per_rank"] == payload
    assert summary["wire_bytes_per_step_per_rank"] == pytest.approx(payload, rel=0.002)  # headers
    assert list(summary["traffic_by_kind"]) == ["all_reduce"]
    waited = summary["exposed_communication_seconds_per_step"]
    assert 0 < waited <= summary["communication_seconds_per_step"]
    assert "AP50" in ended.output
    assert re.search("deepspeed'? --log_level error --num_accelerators 2", ended.output)
    assert "each rank sent" in ended.output

    rows = history(ended.folder)
    logged = {name for row in rows for name in row}
    assert {
        *("train/loss_box", "train/loss_obj", "train/loss_cls", "train/learning_rate"),
        *("train/gradient_norm", "speed/images_per_second", "data/wait_seconds_per_step"),
        *("communication/wire_bytes_per_step", "communication/seconds_per_step"),
        *("communication/exposed_seconds_per_step", "communication/all_reduce/wire_bytes_per_step"),
        *("validation/AP", "validation/AP50"),
    } <= logged
    assert any(name.startswith("validation/samples") for name in logged)
    assert any(name.startswith("validation/confusion") for name in logged)
    sent = [row["communication/wire_bytes_per_step"] for row in rows if "train/loss" in row]
    assert sent == pytest.approx([summary["wire_bytes_per_step_per_rank"]] * len(sent))
    config = {
        item.key: item.value_json
        for record in records(ended.folder)
        if record.WhichOneof("record_type") == "run"
        for item in record.run.config.update
    }
    assert json.loads(config["deepspeed"]) == ended.read("deepspeed.json")
    assert json.loads(config["recipe"])["train"]["global_batch"] == 8


@pytest.fixture
def starts(ended: Ended, tmp_path: Path) -> tuple[str, str]:
    """Weights to start from, and the same with every element moved to the next number of its type."""
    start, nudged = ended.folder / "weights" / "best.safetensors", tmp_path / "nudged.safetensors"
    with safe_open(start, framework="numpy") as file:
        metadata = file.metadata()
    moved = {
        name: np.nextafter(tensor, np.float32(np.inf)) if tensor.dtype == np.float32 else tensor
        for name, tensor in load_file(start).items()
    }
    save_file(moved, nudged, metadata)
    return f"model.weights={start}", f"model.weights={nudged}"


class Trainer(NamedTuple):
    """What came of a run."""

    losses: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, ended: Ended) -> "Trainer":
        weights = sorted(last_weights(ended).items())
        flat = np.concatenate([tensor.astype(np.float64).ravel() for _, tensor in weights])
        return cls(np.array(losses(ended)), flat)

    def apart(self, other: "Trainer") -> tuple[float, float]:
        """The largest difference of a loss, and the distance of the weights."""
        return (
            float(np.abs(self.losses - other.losses).max()),
            float(np.linalg.norm(self.weights - other.weights)),
        )


SGD = ("optimizer.type=SGD", "optimizer.lr=0.001", "optimizer.momentum=0.5")
EXACT = (
    ("zero.stage=1",),
    ("zero.stage=2",),
    ("zero.stage=3",),
    ("communication.reducer=overlapped",),
)


@pytest.mark.parametrize(
    ("optimizer", "others", "growth"),
    [
        (SGD, EXACT, 1e-4),
        # AdamW steps as far along an element of which rounding decides the sign as along any other.
        ((), (("zero.stage=1",), ("zero.stage=2", "zero.offload_optimizer=cpu")), 0.05),
    ],
    ids=["SGD", "AdamW"],
)
def test_stages_offloading_and_overlap_follow_one_loss_curve_to_the_same_weights(
    run: Run,
    starts: tuple[str, str],
    optimizer: tuple[str, ...],
    others: tuple[tuple[str, ...], ...],
    growth: float,
) -> None:
    """As closely, times 3, as stage 0 follows itself from weights that were rounded otherwise.

    How fast rounding grows depends on the processor's kernels: so it is measured, beside what is compared. `growth` is the
    most that it may come to, as a share of the loss, for the comparison to say something.
    """
    start, nudged = starts
    # What a run leaves behind that is killed while it compiles; torch by itself would wait for it for ever. It is killed
    # with the lock of compile_cpu_adam in hand: nothing is left behind under a run that has the lock.
    build = Path(_get_build_directory("cpu_adam", verbose=False))
    with FileLock(build.with_suffix(".lock")):
        (build / "lock").touch()
    every = (
        *optimizer,
        "tracking.log_every_steps=1",
        "train.epochs=3",
        "evaluation.every_epochs=3",
    )
    plain = Trainer.of(run(DEMO, start, *every))
    rounding = plain.apart(Trainer.of(run(DEMO, nudged, *every)))
    assert len(plain.losses) == 9
    print("rounding grew to", rounding)
    assert 0 < rounding[0] < growth * plain.losses.min()
    for settings in others:
        if "zero.offload_optimizer=cpu" in settings and not HAS_CPU_ADAM:
            continue
        other = run(DEMO, start, *every, *settings)
        assert "Warning" not in other.output, settings
        apart = Trainer.of(other).apart(plain)
        print(settings, [a / b for a, b in zip(apart, rounding, strict=True)])
        assert apart[0] <= 3 * rounding[0], settings
        assert apart[1] <= 3 * rounding[1], settings


def test_accumulation_and_16_bits_learn_about_the_same(run: Run, ended: Ended) -> None:
    """The mean over the curve: a single loss hangs on AdamW's signs, of which 8 bits decide many."""
    for settings, tolerance in (
        (("train.gradient_accumulation_steps=2",), 0.05),  # BatchNorm sees half as many images
        (("communication.data_type=bf16",), 0.03),
        (("zero.stage=1", "precision.dtype=bf16"), 0.05),
    ):
        other = run(DEMO, *settings)
        assert np.mean(losses(other)) == pytest.approx(np.mean(losses(ended)), rel=tolerance)
        assert "Warning" not in other.output, settings


def test_the_yolo_format_trains_like_the_same_data_in_coco_format(
    run: Run, ended: Ended, small_demo: Path, tmp_path: Path
) -> None:
    root = tmp_path / "yolo"
    for split in ("train", "val"):
        content = json.loads((small_demo / f"annotations/instances_{split}.json").read_text())
        for image in content["images"]:
            name, side = image["file_name"], image["width"]
            (root / split / "images").mkdir(parents=True, exist_ok=True)
            (root / split / "labels").mkdir(exist_ok=True)
            shutil.copy(small_demo / "images" / name, root / split / "images" / name)
            rows = []
            for annotation in content["annotations"]:
                if annotation["image_id"] == image["id"]:
                    x, y, w, h = (value / side for value in annotation["bbox"])
                    rows.append(f"{annotation['category_id'] - 1} {x + w / 2} {y + h / 2} {w} {h}")
            (root / split / "labels" / name).with_suffix(".txt").write_text("\n".join(rows))
        names = [category["name"] for category in content["categories"]]
    (root / "data.yaml").write_text(
        f"train: train/images\nval: val/images\nnames: {json.dumps(names)}\n"
    )
    files = ("data.train=data.yaml", "data.val=data.yaml")
    yolo = run("recipes/demo.yaml", f"data.root={root}", "data.format=yolo", *files)
    assert losses(yolo) == pytest.approx(losses(ended), rel=1e-4)
    ap = ended.read("summary.json")["ap"]
    assert yolo.read("summary.json")["ap"] == pytest.approx(ap, abs=1e-3)


def test_file_names_that_are_not_utf8_end_no_run(
    run: Run, small_demo: Path, tmp_path: Path
) -> None:
    root, name = tmp_path / "named", os.fsdecode(b"caf\xe9.jpg")
    shutil.copytree(small_demo, root)
    for split in ("train", "val"):
        annotations = root / "annotations" / f"instances_{split}.json"
        content = json.loads(annotations.read_text())
        image = content["images"][0]
        (root / split).mkdir()
        (root / "images" / image["file_name"]).rename(root / split / name)
        (root / "images" / split).symlink_to(root / split)
        image["file_name"] = f"{split}/{name}"
        content["annotations"][0]["bbox"] = [-9, 1, 50, 50]  # reported with the file's name
        content["annotations"][-1]["iscrowd"] = int(split == "train")
        annotations.write_text(json.dumps(content))
    options = ("train.epochs=1", "cluster.processes_per_node=1", "tracking.wandb.mode=offline")
    options += ("tracking.wandb.images=2",)
    ended = run("recipes/demo.yaml", f"data.root={root}", *options)
    assert (ended.folder / "finished").exists()
    assert r"caf\udce9.jpg" in (ended.folder / "report.html").read_text()
    examples = ended.read("data_report.json")[1]["problems"]["box clipped to its image"]["examples"]
    assert r"caf\udce9.jpg" in examples[0] and r"caf\udce9.jpg" in ended.output
    assert "boxes of 4 classes, 1 and 0 crowd boxes\n" in ended.output


def test_latest_stays_at_the_run_before_until_the_new_one_has_weights(
    ended: Ended, start: Start, tmp_path: Path
) -> None:
    runs = tmp_path / "runs" / "demo"
    seldom = ("train.epochs=500", "evaluation.every_epochs=500", "checkpoint.every_epochs=500")
    process = start("recipes/demo.yaml", *seldom)
    wait_until(process, lambda: len(list(runs.glob("2*/metrics.jsonl"))) == 2)
    assert (runs / "latest").resolve() == ended.folder
    process.terminate()
    process.communicate(timeout=60)
    assert (runs / "latest").resolve() == max(runs.glob("2*")) != ended.folder


@pytest.mark.launcher
def test_a_run_whose_launcher_was_killed_is_not_taken_for_finished(
    start_anew: Start, tmp_path: Path
) -> None:
    process = start_anew("recipes/demo.yaml", "train.epochs=50", "cluster.restarts=0")
    metrics = tmp_path / "runs" / "demo" / "latest" / "metrics.jsonl"
    wait_until(process, lambda: metrics.exists() and metrics.stat().st_size > 0)
    # The helper that starts the ranks.
    started = psutil.Process(process.pid).children(recursive=True)
    mine = [child for child in started if "deepspeed.launcher.launch" in child.cmdline()]
    assert mine
    for helper in mine:
        helper.kill()
    process.wait(timeout=120)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the ranks, which nobody minds any more
    output, _ = process.communicate()
    assert process.returncode == 2, output[-3000:]
    assert "was killed (out of memory?), while " in output
    assert not (metrics.parent / "finished").exists()


@pytest.fixture
def nobody_reaps_orphans() -> Iterator[None]:
    """As in a container whose first process is no init: what loses its parent stays as a zombie when it ends."""
    set_child_subreaper = 36  # prctl(2): orphans become this process's, which never waits for them
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(set_child_subreaper, 1) == 0
    yield
    assert prctl(set_child_subreaper, 0) == 0


@pytest.mark.launcher
@pytest.mark.usefixtures("nobody_reaps_orphans")
@pytest.mark.parametrize("is_ctrl_c", [True, False])
def test_ctrl_c_or_sigterm_stops_all_processes_and_says_how_to_go_on(
    start_anew: Start, tmp_path: Path, is_ctrl_c: bool
) -> None:
    process = start_anew("recipes/demo.yaml", "train.epochs=50")
    run = RunDirectory(tmp_path / "runs" / "demo" / "latest")
    wait_until(process, lambda: bool(run.published()))
    started = psutil.Process(process.pid).children(recursive=True)
    if is_ctrl_c:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()  # the command alone, as `kill` and most supervisors do
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "the same command with checkpoint.resume=runs/demo/2" in output
    assert "Traceback" not in output
    assert "sigkill_handler" not in output  # DeepSpeed's launcher, on any exit code but 0
    assert run.newest_checkpoint is not None and not run.finished.exists()
    assert len(started) >= 3
    deadline = time.monotonic() + 5  # what was killed may still be ending
    while not all(map(has_ended, started)):
        assert time.monotonic() < deadline, [child for child in started if not has_ended(child)]
        time.sleep(0.05)


@pytest.mark.parametrize("stage", [0, 1])
def test_diverging_training_stops_and_says_what_to_do(run: Run, stage: int) -> None:
    """A decay of lr x 1 multiplies every weight by up to -9 a step, whatever the gradient is: it must overflow.

    A step whose loss or gradient is not finite is left out at every stage, and there is nothing to go back to.
    """
    ended = run(
        "recipes/demo.yaml",
        f"zero.stage={stage}",
        *("optimizer.lr=10", "optimizer.weight_decay=1", "train.epochs=60"),
        *("evaluation.every_epochs=60", "checkpoint.every_epochs=60"),
        fails=True,
    )
    assert ended.code == 2 and "Traceback" not in ended.output
    kinds = [event["kind"] for event in ended.events()]
    assert kinds == ["skipped"] * 5 + ["stopped"]
    assert "Lower optimizer.lr" in ended.output


def test_a_missing_data_set_is_one_line_before_anything_starts(run: Run) -> None:
    ended = run("recipes/demo.yaml", "data.root=/nowhere", fails=True)
    assert ended.output == "data.root: /nowhere: no such folder; set data.root=/path/to/data\n"


def test_a_backend_that_is_not_there_is_one_line(run: Run) -> None:
    ended = run("recipes/demo.yaml", "cluster.backend=xccl", fails=True)
    assert ended.code == 2
    assert ended.output == (
        "cluster.backend xccl: torch was built without it on this machine; it needs Intel GPUs and torch's XPU build; "
        "gloo works on every machine\n"
    )


def test_a_training_split_without_boxes_is_refused(
    run: Run, small_demo: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    shutil.copytree(small_demo, empty)
    annotations = empty / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    annotations.write_text(json.dumps(content | {"annotations": []}))
    ended = run("recipes/demo.yaml", f"data.root={empty}", fails=True)
    assert ended.code == 2 and "Traceback" not in ended.output
    assert "instances_train.json: no box to learn from" in ended.output


def test_bad_images_above_the_share_stop_the_run_before_training(
    run: Run, small_demo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_demo, broken)
    for image in sorted((broken / "images").glob("train-*"))[:3]:
        image.write_bytes(image.read_bytes()[:500])
    ended = run("recipes/demo.yaml", f"data.root={broken}", fails=True)
    assert "3 of 24 images cannot be used (12.5%, data.max_bad_share allows 1.0%)" in ended.output
    latest = ended.folder.parent / "latest"
    assert not latest.is_symlink()  # a run that did not start takes it from none
    kept = run(
        "recipes/demo.yaml",
        f"data.root={broken}",
        "data.max_bad_share=0.2",
        "tracking.wandb.images=0",
    )
    assert "3 x corrupt image" in kept.output
    assert kept.read("summary.json")["steps"] == 6  # 21 of 24 images in batches of 8
    assert kept.read("data_report.json")[0]["bad_images"] == 3
