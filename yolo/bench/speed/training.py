"""Full training runs of one process: ours through the launcher and the baseline, alternating."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo.bench.speed.speed_ratios import SpeedRatio
from yolo.errors import BenchError
from yolo.launch.command import launch_module
from yolo.recipe import prepare
from yolo.training.checkpointing.run_directory import RunDirectory, new_run

ONE_PROCESS = ("cluster.processes_per_node=1", "tracking.wandb.mode=disabled")
LAST_LINES = 25


@dataclass(slots=True)
class TrainingRuns:
    """Both sides' runs, in the order of the rounds."""

    ours: list[dict[str, Any]] = field(default_factory=list)
    """summary.json of each."""
    baseline: list[dict[str, Any]] = field(default_factory=list)
    """`PlainRun` of each."""

    def comparisons(self) -> list[SpeedRatio]:
        """Images/s of the steps, and the time of the full run from the program's start to its end."""
        aps = [", ".join(f"{run['ap']:.3f}" for run in side) for side in (self.ours, self.baseline)]
        note = f"AP {aps[0]}; the baseline's {aps[1]}"
        return [
            self._ratio("training, loader included", "images/s", "images_per_second"),
            self._ratio("a full run, from start to end", "s", "process_seconds", note),
        ]

    def waits(self) -> dict[str, float]:
        """Seconds per step that the last run of each side waited for its images."""
        ours, baseline = self.ours[-1], self.baseline[-1]
        seconds = baseline["seconds"]["waiting for images"] / baseline["steps"]
        return {"ours": ours["data_wait_seconds_per_step"], "baseline": seconds}

    def _ratio(self, name: str, unit: str, key: str, note: str = "") -> SpeedRatio:
        sides = self.ours, self.baseline
        ours, baseline = (tuple(float(run[key]) for run in side) for side in sides)
        return SpeedRatio(name, unit, unit != "s", ours, baseline, note)


def compare_training(
    recipe: Path, overrides: Sequence[str], rounds: int, advance: Callable[[], None]
) -> TrainingRuns:
    """Train the recipe on one process with the seeds 0, 1, ...; both sides get the same threads and loader workers.

    `advance` is called after each run. Raises BenchError if a run fails.
    """
    runs = TrainingRuns()
    for seed in range(rounds):
        settings = [*ONE_PROCESS, *overrides, f"train.seed={seed}"]
        runs.ours.append(run_ours(recipe, settings))
        advance()
        runs.baseline.append(run_baseline(recipe, settings))
        advance()
    return runs


def run_ours(recipe: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Train through the launcher; returns the run's summary.json."""
    run = RunDirectory(new_run("bench").path.resolve())
    resolved = prepare(recipe, settings, 1).resolved
    arguments = ["--recipe", str(recipe), "--run", str(run.path), *settings]
    launch = launch_module(resolved, "yolo.train", arguments)
    seconds = call(launch.command, dict(launch.environment))
    return json.loads(run.summary.read_text(encoding="utf-8")) | {"process_seconds": seconds}


def run_baseline(recipe: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Train the baseline in its own process; returns its `PlainRun`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        seconds = call(
            (sys.executable, "-m", "yolo.bench.baseline", "--out", str(out), str(recipe), *settings)
        )
        return json.loads(out.read_text(encoding="utf-8")) | {"process_seconds": seconds}


def call(command: Sequence[str], environment: dict[str, str] | None = None) -> float:
    """Run a program to its end; returns its seconds. Raises BenchError with its last lines if it fails."""
    begun = time.perf_counter()
    done = subprocess.run(
        command,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
        raise BenchError(f"{command[0]} ended with exit code {done.returncode}:\n{lines}")
    return time.perf_counter() - begun
