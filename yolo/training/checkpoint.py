"""Checkpoints: DeepSpeed's own state, the averaged weights, and where in the run they were taken."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch

from yolo.communication.exchange import Exchange
from yolo.communication.meter import KindTraffic, Traffic
from yolo.data.dataset import DetectionDataset
from yolo.data.shards import Shards
from yolo.errors import CheckpointError
from yolo.model import YOLOv5
from yolo.model.weights import load_weights, save_weights
from yolo.recipe.effective import flatten
from yolo.recipe.schema import Recipe
from yolo.training.averaging import WeightAverage
from yolo.training.ranks import Ranks, from_all, from_first
from yolo.training.recorder import Span
from yolo.training.run_directory import STATE, RunDirectory

AVERAGE = "average.safetensors"
LOSS_SCALER = "loss_scaler"
RANK_STATE = "exchange-rank-{:05d}.pt"
"""What one rank alone knows of the exchange, such as its error feedback."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    epochs_done: int = 0
    steps_into_epoch: int = 0
    """Of the epoch after those; 0 at an epoch's end."""
    steps_done: int = 0
    average_updates: int = 0
    best_ap: float = -1.0
    wall_seconds: float = 0.0
    total: Span = field(default_factory=Span)
    """What the training steps so far cost."""

    @property
    def position(self) -> str:
        """In words."""
        within = f" and {self.steps_into_epoch} steps of the next" if self.steps_into_epoch else ""
        return f"epoch {self.epochs_done}{within}"

    @property
    def tag(self) -> str:
        """The checkpoint's name; names sort as the run goes."""
        within = f"-step-{self.steps_into_epoch:07d}" if self.steps_into_epoch else ""
        return f"epoch-{self.epochs_done:04d}{within}"

    @classmethod
    def of(cls, raw: dict[str, Any]) -> "Progress":
        """The progress that `dataclasses.asdict` wrote down; TypeError or KeyError where it did not."""
        total = raw["total"]
        kinds = total["traffic"]["by_kind"].items()
        by_kind = {kind: KindTraffic(**traffic) for kind, traffic in kinds}
        traffic = Traffic(**(total["traffic"] | {"by_kind": by_kind}))
        return cls(**(raw | {"total": Span(**(total | {"traffic": traffic}))}))


MUST_STAY = (
    *("model.variant", "zero.stage", "precision.dtype", "train.global_batch"),
    "train.gradient_clipping",
)
"""And `optimizer` but for its lr: DeepSpeed takes these from the checkpoint, or cannot load another's."""
MUST_STAY_WITHIN_EPOCH = ("data.format", "train.seed")
"""Or the rest of the epoch would hold other images than were left of it."""
AND_OF_SHARDS = (
    *("data.workers", "data.shuffle_buffer", "train.micro_batch"),
    "data.shards",  # not of the recipe: which shards they are
)
"""Each worker streams its own shards."""
MAY_CHANGE_UNSAID = ("description", "tracking.", "checkpoint.", "cluster.", "communication.timeout")


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What a run is made of: a checkpoint goes on only in a run that it fits."""

    settings: dict[str, Any]
    """Every value of the resolved recipe by its dotted key, as JSON has it; and `data.shards`, a digest of their index."""
    class_names: list[str]
    training_images: int
    """With the seed they decide which images a step sees: a position in another data set means nothing."""
    world_size: int

    @classmethod
    def of(cls, recipe: Recipe, train: DetectionDataset | Shards, ranks: Ranks) -> "RunIdentity":
        """The identity of the run at hand."""
        values = flatten(recipe.model_dump(mode="json"))
        settings = {".".join(key): value for key, value in values}
        if isinstance(train, Shards):
            index = train.index.model_dump_json().encode()
            settings["data.shards"] = hashlib.sha256(index).hexdigest()[:12]
        return cls(settings, list(train.class_names), len(train), ranks.world_size)

    def must_equal(self, is_within_epoch: bool) -> dict[str, Any]:
        """What another identity must have alike, by its name in a message."""
        within: tuple[str, ...] = MUST_STAY_WITHIN_EPOCH if is_within_epoch else ()
        if is_within_epoch and self.settings["data.format"] == "shards":
            within += AND_OF_SHARDS
        fixed = {
            key: value for key, value in self.settings.items() if _must_stay(key) or key in within
        }
        return fixed | {
            "classes": self.class_names,
            "number of training images": self.training_images,
            "number of ranks": self.world_size,
        }


@dataclass(frozen=True, slots=True)
class _State:
    """What DeepSpeed's own checkpoint does not say."""

    identity: RunIdentity
    progress: Progress

    @classmethod
    def read(cls, path: Path) -> "_State":
        """Raises CheckpointError where it cannot be read."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(RunIdentity(**raw["identity"]), Progress.of(raw["progress"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(_unreadable(path, error)) from error


def saved_setting(folder: Path, key: str) -> Any:
    """A value of the recipe that a checkpoint was saved with; None where it is not known: loading says why."""
    try:
        return _State.read(folder / STATE).identity.settings.get(key)
    except CheckpointError:
        return None


def save_checkpoint(
    engine: Any,
    exchange: Exchange,
    plain: YOLOv5,
    progress: Progress,
    identity: RunIdentity,
    run: RunDirectory,
    keep: int,
) -> None:
    """Write a checkpoint and, last of all, point `latest` at it; collective.

    `plain` holds the averaged weights (`WeightAverage.write_into` was called on it). The `keep` newest stay.
    """
    scaler = engine.torch_autocast_z0_gradscaler  # DeepSpeed forgets it
    client_state = {LOSS_SCALER: scaler.state_dict()} if scaler is not None else {}
    engine.save_checkpoint(
        str(run.checkpoints), tag=progress.tag, client_state=client_state, save_latest=False
    )
    folder = run.checkpoints / progress.tag
    kept = {"kind": exchange.kind, "state": exchange.rank_state()}
    torch.save(kept, folder / RANK_STATE.format(dist.get_rank()))
    dist.barrier()  # `latest` may name it only once all ranks' files are there
    if dist.get_rank() == 0:
        save_weights(folder / AVERAGE, plain, {})
        _write_whole(folder / STATE, json.dumps(asdict(_State(identity, progress)), indent=1))
        _write_whole(run.checkpoints / "latest", progress.tag)
        _remove_older(run.checkpoints, progress.tag, keep)
    dist.barrier()


def load_checkpoint(
    folder: Path,
    engine: Any,
    exchange: Exchange,
    average: WeightAverage,
    plain: YOLOv5,
    identity: RunIdentity,
    ranks: Ranks,
    tell: Callable[[str], None],
) -> Progress:
    """Take up the checkpoint in a folder, the same on all ranks; collective.

    Settings that differ from the checkpoint's are told. Raises CheckpointError where it is missing, unreadable or of a
    run that this one cannot go on with: never does a run start anew in silence.
    """
    state = _agreed_state(folder, ranks)
    _check_fit(folder, state, identity)
    for key, asked in identity.settings.items():
        saved = state.identity.settings.get(key, "not known")
        if asked != saved and not key.startswith(MAY_CHANGE_UNSAID):
            tell(f"{key} is now {asked}; the checkpoint was saved with {saved}")
    problem = None
    try:
        path, client_state = engine.load_checkpoint(str(folder.parent), tag=folder.name)
        if path is None:
            problem = "DeepSpeed found nothing to load in it"
        elif engine.torch_autocast_z0_gradscaler is not None and LOSS_SCALER in client_state:
            engine.torch_autocast_z0_gradscaler.load_state_dict(client_state[LOSS_SCALER])
        exchange.weights_loaded()
        _load_rank_state(folder / RANK_STATE.format(ranks.rank), exchange, ranks, tell)
        load_weights(folder / AVERAGE, plain, allow_mismatch=False)
    except Exception as error:  # a torn file raises whatever its bytes happen to spell
        problem = " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])
    problems = [each for each in from_all(ranks, problem) if each is not None]
    if problems:  # of one rank's own file the others know nothing
        raise CheckpointError(_unreadable(folder, problems[0]))
    average.read_from(plain, state.progress.average_updates)
    return state.progress


def _load_rank_state(
    path: Path, exchange: Exchange, ranks: Ranks, tell: Callable[[str], None]
) -> None:
    kept = torch.load(path, map_location=ranks.device, weights_only=True)
    if kept["kind"] == exchange.kind:
        exchange.load_rank_state(kept["state"])
    elif ranks.is_first:
        tell(
            f"the checkpoint was saved under the exchange {kept['kind']}; {exchange.kind} begins without error feedback"
        )


def _agreed_state(folder: Path, ranks: Ranks) -> _State:
    """As the first rank reads it; an error reaches all."""
    found: _State | CheckpointError | None = None
    if ranks.is_first:
        try:
            found = _State.read(folder / STATE)
        except CheckpointError as error:
            found = error
    state: _State | CheckpointError = from_first(ranks, found)
    if isinstance(state, CheckpointError):
        raise state
    blind = [rank for rank, is_seen in enumerate(from_all(ranks, folder.is_dir())) if not is_seen]
    if blind:
        raise CheckpointError(
            f"{folder}: ranks {blind} do not see it; the folder `runs` must be one that all machines share"
        )
    return state


def _check_fit(folder: Path, saved: _State, asked: RunIdentity) -> None:
    is_within_epoch = saved.progress.steps_into_epoch > 0
    before, now = saved.identity.must_equal(is_within_epoch), asked.must_equal(is_within_epoch)
    # An optimizer of another type has other parameters; its type says all.
    for what in sorted(before.keys() | now.keys(), key=lambda key: (key != "optimizer.type", key)):
        if before.get(what) != now.get(what):
            raise CheckpointError(
                f"{folder}: was saved with {what} {before.get(what)}, and this run has {now.get(what)}; go on with "
                f"{before.get(what)}, or start anew with checkpoint.resume=never"
            )


def _must_stay(key: str) -> bool:
    return key in MUST_STAY or (key.startswith("optimizer.") and key != "optimizer.lr")


def _unreadable(path: Path, why: object) -> str:
    return (
        f"{path}: cannot be read: {why}; name another run with checkpoint.resume=PATH, or start anew with "
        "checkpoint.resume=never"
    )


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _remove_older(checkpoints: Path, newest: str, keep: int) -> None:
    others = [path for path in checkpoints.glob("epoch-*") if path.name != newest]
    torn = [path for path in others if not (path / STATE).exists()]
    whole = sorted(path for path in others if path not in torn)
    for folder in [*torn, *whole[: max(0, len(whole) + 1 - keep)]]:
        shutil.rmtree(folder)
