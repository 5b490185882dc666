import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import ON_A_PROCESSOR, REPOSITORY, free_port, let_ctrl_c_end_it
from tests.forking.server import UNDRAWN, ForkedProcess
from yolo.bench.chaos.faults import POISON
from yolo.data.demo import DemoSettings, generate_demo

DEMO = "recipes/demo.yaml"
PASSED_OVER = Path(__file__).parent / "passed_over"
SMALL = (
    *("model.image_size=64", "train.epochs=2", "train.global_batch=8", "train.warmup_epochs=0"),
    *("evaluation.every_epochs=1", "checkpoint.every_epochs=1", "tracking.log_every_steps=2"),
    "tracking.wandb.mode=disabled",  # one run that tells W&B all is enough
    "precision.dtype=fp32",  # what the exactness of losses is stated for; auto would measure first
    # Bounds on losses were found with the preset's colours: with others rounding decides AdamW's signs sooner.
    *(f"data.augmentation.{what}=auto" for what in ("hsv_h", "hsv_s", "hsv_v")),
)


@dataclass(frozen=True)
class Ended:
    """A run of the main job that ended."""

    code: int
    output: str
    folder: Path

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def metrics(self) -> list[dict[str, Any]]:
        return self._lines("metrics.jsonl")

    def events(self) -> list[dict[str, Any]]:
        return self._lines("events.jsonl")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / name).read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "demo"
    generate_demo(root, DemoSettings(train_images=24, val_images=9, size=96))
    return root


class Process(Protocol):
    """A started `yolo train`: a `subprocess.Popen` with text, or as good as one."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def communicate(self, *, timeout: float | None = None) -> tuple[str, Any]: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


Start = Callable[..., Process]
Run = Callable[..., Ended]


@pytest.fixture
def start(small_demo: Path, tmp_path: Path) -> Iterator[Start]:
    """Start `yolo train` in an empty folder, on a small demo set and 2 ranks; all processes are forked (tests.forking)."""
    started: list[ForkedProcess] = []

    def start_run(recipe: str, *overrides: str) -> ForkedProcess:
        started.append(start_forked(tmp_path, small_demo, recipe, *overrides))
        return started[-1]

    yield start_run
    for process in started:
        process.kill_all()


@pytest.fixture
def start_anew(small_demo: Path, tmp_path: Path) -> Iterator[Start]:
    """The same with new interpreters and the real launcher, for what depends on how processes are started and end."""
    started: list[subprocess.Popen[str]] = []

    def start_run(recipe: str, *overrides: str) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                train_command(small_demo, recipe, *overrides),
                cwd=tmp_path,
                env=ON_A_PROCESSOR,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=let_ctrl_c_end_it,
            )
        )
        return started[-1]

    yield start_run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def run(small_demo: Path, tmp_path: Path) -> Run:
    """`yolo train` as `start` starts it, to its end."""
    return running_in(tmp_path, small_demo)


@pytest.fixture(scope="session")
def demo_once(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Ended]:
    """A run of the demo's recipe, made once, where it is first asked for."""
    run = running_in(tmp_path_factory.mktemp("once"), small_demo, is_drawn=True)
    return cache(lambda: run(DEMO, "tracking.wandb.mode=offline"))


@pytest.fixture
def ended(demo_once: Callable[[], Ended], tmp_path: Path) -> Ended:
    """That run, as if it had been made in this test's folder."""
    once = demo_once()
    shutil.copytree(once.folder.parents[1], tmp_path / "runs", symlinks=True)
    return replace(once, folder=tmp_path / "runs" / "demo" / once.folder.name)


def train_command(data: Path, recipe: str, *overrides: str) -> list[str]:
    common = (f"data.root={data}", *SMALL, f"cluster.master_port={free_port()}")
    return [sys.executable, "-m", "yolo", "train", str(REPOSITORY / recipe), *common, *overrides]


def start_forked(
    folder: Path, data: Path, recipe: str, *overrides: str, is_drawn: bool = False
) -> ForkedProcess:
    hooks = [PASSED_OVER] if "YOLO_PASS_OVER" in os.environ else []
    if hooks or "YOLO_POISON" in os.environ:
        hooks.append(POISON)
    path = ":".join(map(str, [*hooks, REPOSITORY]))
    output = folder / f"output-{len(list(folder.glob('output-*')))}"
    output.touch()
    return ForkedProcess(
        train_command(data, recipe, *overrides),
        folder,
        {
            **({} if is_drawn else {UNDRAWN: "1"}),
            **ON_A_PROCESSOR,
            **os.environ,
            **{"PYTHONPATH": path, "DS_ACCELERATOR": "cpu"},
        },
        output,
    )


def running_in(folder: Path, data: Path, is_drawn: bool = False) -> Run:
    def run_to_end(recipe: str, *overrides: str, fails: bool = False) -> Ended:
        process = start_forked(folder, data, recipe, *overrides, is_drawn=is_drawn)
        try:
            output, _ = process.communicate(timeout=300)
        finally:
            process.kill_all()
        assert (process.returncode != 0) == fails, output[-6000:]
        assert process.returncode is not None
        runs = folder / "runs" / Path(recipe).stem
        if not fails:
            return Ended(process.returncode, output, (runs / "latest").resolve())
        made = [path for path in runs.glob("*/") if not path.is_symlink()]
        return Ended(process.returncode, output, max(made, default=runs))

    return run_to_end


def losses(ended: Ended) -> list[float]:
    return [
        row["train/loss_box"] + row["train/loss_obj"] + row["train/loss_cls"]
        for row in ended.metrics()
        if "train/loss_box" in row
    ]


def last_weights(ended: Ended) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = load_file(ended.folder / "weights" / "last.safetensors")
    return tensors


def assert_same(weights: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


def wait_until(process: Process, condition: Callable[[], bool]) -> None:
    """Wait for something that a run does on its way."""
    deadline = time.monotonic() + 120
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"the run has ended: {process.communicate()[0][-6000:]}")
        assert time.monotonic() < deadline
        time.sleep(0.05)
