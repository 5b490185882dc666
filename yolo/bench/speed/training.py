"""Full training runs of one process: ours through the launcher and the baseline, alternating."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yolo.bench.speed.speed_ratios import SpeedRatio
from yolo.errors import BenchError
from yolo.launch.command import launch_training
from yolo.launch.port import reserved_port
from yolo.recipe import ResolvedRecipe
from yolo.training.checkpointing.run_directory import RunDirectory, new_run

ONE_PROCESS = ("cluster.processes_per_node=1", "tracking.wandb.mode=disabled")
LAST_LINES = 25


Runs = dict[str, list[dict[str, Any]]]
"""By side, in the order of the rounds: summary.json of ours, `PlainRun` of the baseline."""


def train_both(
    recipe: Path,
    settings: Sequence[str],
    resolved: ResolvedRecipe,
    rounds: int,
    advance: Callable[[], None],
) -> Runs:
    """Train the recipe on one process with the seeds 0, 1, ...; both sides get the same threads and loader workers.

    `advance` is called after each run. Raises BenchError if a run fails.
    """
    runs: Runs = {"ours": [], "baseline": []}
    for seed in range(rounds):
        seeded = [*settings, f"train.seed={seed}"]
        runs["ours"].append(_train_ours(seeded, resolved))
        advance()
        runs["baseline"].append(_train_baseline(recipe, seeded))
        advance()
    return runs


def comparisons(runs: Runs) -> list[SpeedRatio]:
    """Images/s of the steps, and the time of the full run from the program's start to its end."""

    def ratio(name: str, unit: str, key: str, note: str = "") -> SpeedRatio:
        ours, baseline = (tuple(float(run[key]) for run in side) for side in runs.values())
        return SpeedRatio(name, unit, unit != "s", ours, baseline, note)

    aps = [", ".join(f"{run['ap']:.3f}" for run in side) for side in runs.values()]
    note = f"AP {aps[0]}; the baseline's {aps[1]}"
    return [
        ratio("training, loader included", "images/s", "images_per_second"),
        ratio("a full run, from start to end", "s", "process_seconds", note),
    ]


def seconds_waited(side: str, run: dict[str, Any]) -> float:
    """Seconds per step that a run waited for its images."""
    if side == "ours":
        return float(run["data_wait_seconds_per_step"])
    return float(run["seconds"]["waiting for images"] / run["steps"])


def _train_ours(settings: Sequence[str], resolved: ResolvedRecipe) -> dict[str, Any]:
    """Train through the launcher; `resolved` names recipe and machines."""
    run = RunDirectory(new_run("bench").path.resolve())
    with reserved_port(resolved.recipe.cluster) as port:
        launch = launch_training(resolved, settings, run, port)
        seconds = call(launch.command, launch.environment)
    return json.loads(run.summary.read_text(encoding="utf-8")) | {"process_seconds": seconds}


def _train_baseline(recipe: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Train in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        module = (sys.executable, "-m", "yolo.bench.baseline")
        seconds = call((*module, "--out", str(out), str(recipe), *settings))
        return json.loads(out.read_text(encoding="utf-8")) | {"process_seconds": seconds}


def call(command: Sequence[str], environment: Sequence[tuple[str, str]] = ()) -> float:
    """Run a program to its end; returns its seconds. Raises BenchError with its last lines if it fails."""
    begun = time.perf_counter()
    done = subprocess.run(
        command,
        env=os.environ | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
        raise BenchError(f"{command[0]} ended with exit code {done.returncode}:\n{lines}")
    return time.perf_counter() - begun
