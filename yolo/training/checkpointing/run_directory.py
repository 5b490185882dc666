"""The folder of one run: what lies where, and which run an interrupted one goes on in. Needs no torch."""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from yolo.errors import CheckpointError

RUNS = Path("runs")
CHECKPOINT = re.compile(r"epoch-\d{4,}(-step-\d{7,})?")
"""What a checkpoint's folder is called. It gets the name when it is whole; what is damaged or unfinished has others."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """`runs/<recipe name>/<UTC time>/` and the files in it."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe, each value with its origin."""
        return self.path / "recipe.yaml"

    @property
    def plan(self) -> Path:
        """What `strategy: auto` chose from, and why."""
        return self.path / "plan.json"

    @property
    def deepspeed_json(self) -> Path:
        """What DeepSpeed was given."""
        return self.path / "deepspeed.json"

    @property
    def metrics(self) -> Path:
        """One JSON line for each logged step and evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """One JSON line for each step that was left out, and for each time that the run went back."""
        return self.path / "events.jsonl"

    @property
    def summary(self) -> Path:
        """The run's result."""
        return self.path / "summary.json"

    @property
    def data_report(self) -> Path:
        """What was wrong with the data, in counts and examples."""
        return self.path / "data_report.json"

    @property
    def report(self) -> Path:
        """The run as a page to look at."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """A folder a checkpoint, called after its place in the run."""
        return self.path / "checkpoints"

    @property
    def last_weights(self) -> Path:
        """The averaged weights of the newest checkpoint, in the end those after the last epoch."""
        return self.path / "weights" / "last.safetensors"

    @property
    def best_weights(self) -> Path:
        """The averaged weights with the highest AP."""
        return self.path / "weights" / "best.safetensors"

    @property
    def finished(self) -> Path:
        """Written last: the launcher's exit code can be 0 for a run that was cut off."""
        return self.path / "finished"

    def published(self) -> list[Path]:
        """The folders of the run's checkpoints, the newest first."""
        if not self.checkpoints.is_dir():
            return []
        named = [path for path in self.checkpoints.iterdir() if CHECKPOINT.fullmatch(path.name)]
        return sorted(named, key=lambda path: path.name, reverse=True)

    @property
    def newest_checkpoint(self) -> Path | None:
        """The folder of the newest checkpoint; whether it is still what was written shows when a run goes on from it."""
        return next(iter(self.published()), None)

    def create(self) -> None:
        """Make the folder."""
        self.last_weights.parent.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)

    def become_latest(self) -> None:
        """Point the link `latest` beside the folder at it. OSError where the file system knows no links."""
        link = self.path.parent / "latest"
        if link.exists() and not link.is_symlink():
            return  # --run may name any folder, and this is not ours to replace
        temporary = link.with_name(f".latest-{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.path.name)
        temporary.replace(link)


def resume_hint(run: RunDirectory) -> str:
    """What somebody should know whose run has stopped before its end."""
    if run.finished.exists():
        return f"{run.path} had reached its end"
    newest = run.newest_checkpoint
    if newest is None:
        return f"{run.path} has no checkpoint to go on from"
    return f"the same command with checkpoint.resume={run.path} goes on from {newest.name}"


def new_run(name: str, runs: Path = RUNS) -> RunDirectory:
    """A folder that does not exist yet, named after the recipe and the time."""
    now = datetime.now(UTC)
    path = runs / name / now.strftime("%Y-%m-%dT%H-%M-%SZ")
    number = 2
    while path.exists():
        path = path.with_name(f"{now:%Y-%m-%dT%H-%M-%SZ}-{number}")
        number += 1
    return RunDirectory(path)


def choose_run(name: str, resume: str, runs: Path = RUNS) -> RunDirectory:
    """The folder that `checkpoint.resume` asks for: a new one, or that of the run to go on with.

    Raises CheckpointError where a named run has nothing to go on from, or is finished.
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
            f"checkpoint.resume: {resume}: the run is finished; to train on, start anew from its weights with "
            f"model.weights={run.best_weights}"
        )
    if not run.newest_checkpoint:
        raise CheckpointError(
            f"checkpoint.resume: {resume}: the run has no checkpoint to go on from; "
            "start anew with checkpoint.resume=never"
        )
    return run


def named_run(path: Path, resume: str) -> RunDirectory:
    """The folder that `--run` names: a new one, or that of the run to go on with.

    Raises CheckpointError where it holds a run that is finished, or one that `checkpoint.resume` does not ask for.
    """
    run = RunDirectory(path)
    if run.finished.exists():
        raise CheckpointError(
            f"{path}: the run in it is finished; start anew in another folder with checkpoint.resume=never"
        )
    if resume == "never" and run.newest_checkpoint:
        raise CheckpointError(
            f"{path}: holds {run.newest_checkpoint.name} of an unfinished run; go on from it with "
            "checkpoint.resume=auto, or name another folder"
        )
    return run
