"""The folder of one run, its files, and the choice of the run to resume. Needs no torch."""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from yolo.errors import CheckpointError

RUNS = Path("runs")
CHECKPOINT = re.compile(r"epoch-\d{4,}(-step-\d{7,})?")
"""Name of a checkpoint's folder. Only valid ones have it; damaged or unfinished ones have other names."""


class _RunFile:
    """A path in a run's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunDirectory", _: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """`runs/<recipe name>/<UTC time>/` and the files in it."""

    path: Path
    recipe = _RunFile("recipe.yaml")
    """The resolved recipe; each value with its origin."""
    plan = _RunFile("plan.json")
    """The plan from which `strategy: auto` chose."""
    deepspeed_json = _RunFile("deepspeed.json")
    """DeepSpeed's configuration."""
    metrics = _RunFile("metrics.jsonl")
    """One JSON line per logged step and evaluation."""
    events = _RunFile("events.jsonl")
    """One JSON line per skipped step and per rollback."""
    summary = _RunFile("summary.json")
    """The run's result."""
    data_report = _RunFile("data_report.json")
    """Problems of the data, with counts and examples."""
    report = _RunFile("report.html")
    """The run as an HTML page."""
    checkpoints = _RunFile("checkpoints")
    """One folder per checkpoint, named after its position in the run."""
    last_weights = _RunFile("weights/last.safetensors")
    """The averaged weights of the newest checkpoint; finally, those after the last epoch."""
    best_weights = _RunFile("weights/best.safetensors")
    """The averaged weights with the highest AP."""
    finished = _RunFile("finished")
    """Written last: the launcher's exit code can be 0 for a run that was interrupted."""

    def published(self) -> list[Path]:
        """The checkpoints' folders, newest first."""
        if not self.checkpoints.is_dir():
            return []
        named = [path for path in self.checkpoints.iterdir() if CHECKPOINT.fullmatch(path.name)]
        return sorted(named, key=lambda path: path.name, reverse=True)

    @property
    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint's folder; it is verified when a run resumes from it."""
        return next(iter(self.published()), None)

    def create(self) -> None:
        """Create the folder."""
        self.last_weights.parent.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)

    def become_latest(self) -> None:
        """Point the link `latest`, beside the folder, to it. Raises OSError if the file system has no links.

        To be called once the run has weights: if a run cannot start, `latest` stays at the run before it.
        """
        link = self.path.parent / "latest"
        if link.exists() and not link.is_symlink():
            return  # --run may name any folder, and this is not ours to replace
        temporary = link.with_name(f".latest-{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.path.name)
        temporary.replace(link)


def resume_hint(run: RunDirectory) -> str:
    """How to resume a run that stopped before its end."""
    if run.finished.exists():
        return f"{run.path} had reached its end"
    newest = run.newest_checkpoint
    if newest is None:
        return f"{run.path} has no checkpoint to resume from"
    return f"the same command with checkpoint.resume={run.path} resumes from {newest.name}"


def new_run(name: str, runs: Path = RUNS) -> RunDirectory:
    """A folder that does not exist yet, named after recipe and time."""
    now = datetime.now(UTC)
    path = runs / name / now.strftime("%Y-%m-%dT%H-%M-%SZ")
    number = 2
    while path.exists():
        path = path.with_name(f"{now:%Y-%m-%dT%H-%M-%SZ}-{number}")
        number += 1
    return RunDirectory(path)


def claim(run: RunDirectory) -> RunDirectory:
    """Create a new run's folder. If a run that started at the same moment has just taken its name, it gets another."""
    if run.newest_checkpoint is not None:
        return run
    while True:
        try:
            run.path.mkdir(parents=True)
            return run
        except FileExistsError:
            run = new_run(run.path.parent.name, run.path.parents[1])


def choose_run(name: str, resume: str, runs: Path = RUNS) -> RunDirectory:
    """The folder that `checkpoint.resume` selects: a new one, or that of the run to resume.

    Raises CheckpointError if a named run is finished, or has no checkpoint.
    """
    if resume == "never":
        return new_run(name, runs)
    if resume == "auto":
        earlier = (runs / name).glob("*/") if (runs / name).is_dir() else ()
        for path in sorted((p for p in earlier if not p.is_symlink()), reverse=True):
            run = RunDirectory(path)
            if run.finished.exists():
                break
            if run.newest_checkpoint:
                return run
        return new_run(name, runs)
    run = RunDirectory(Path(resume).resolve() if Path(resume).is_symlink() else Path(resume))
    if not run.path.is_dir():
        raise CheckpointError(
            f"checkpoint.resume: {resume}: no such run; expected a folder such as runs/{name}/latest, "
            "`auto` or `never`"
        )
    if run.finished.exists():
        raise CheckpointError(
            f"checkpoint.resume: {resume}: the run is finished; to train on, start a new run from its weights with "
            f"model.weights={run.best_weights}"
        )
    if not run.newest_checkpoint:
        raise CheckpointError(
            f"checkpoint.resume: {resume}: the run has no checkpoint to resume from; "
            "start a new run with checkpoint.resume=never"
        )
    return run


def named_run(path: Path, resume: str) -> RunDirectory:
    """The folder that `--run` names: a new one, or that of the run to resume.

    Raises CheckpointError if its run is finished, or if `checkpoint.resume` does not allow to resume it.
    """
    run = RunDirectory(path)
    if run.finished.exists():
        raise CheckpointError(
            f"{path}: its run is finished; start a new run in another folder with checkpoint.resume=never"
        )
    if resume == "never" and run.newest_checkpoint:
        raise CheckpointError(
            f"{path}: holds {run.newest_checkpoint.name} of an unfinished run; resume from it with "
            "checkpoint.resume=auto, or name another folder"
        )
    return run
