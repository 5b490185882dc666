"""Checkpoints: everything that a run is at one step, in a folder that is whole or not there.

Saving changes nothing of the run: one that is saved more often, or that is killed and goes on from any checkpoint, ends
with the same bits. Tensors are whole ones (`FullState`), so that a run may go on with another number of ranks and
under another ZeRO stage. What ranks know each for itself lies in a file a rank.
"""

import io
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from yolo.communication.coalesced import all_reduce_mean
from yolo.communication.strategy import SyncStrategy
from yolo.errors import CheckpointError
from yolo.model import YOLOv5
from yolo.training.checkpointing.atomic_dir import (
    commit,
    digest_of,
    part_of,
    remove,
    remove_unfinished,
    room_for,
    sync_folder,
    write_synced,
)
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.full_state import FullState
from yolo.training.checkpointing.metadata import STATE, CheckpointMetadata, unreadable
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import (
    DistributedContext,
    all_gather_object,
    broadcast_object,
    run_on_main,
)
from yolo.training.loop.ema import ModelEMA, statistics
from yolo.training.loop.train_state import TrainState
from yolo.training.resilience.fencing import FencingToken

WEIGHTS = "weights.safetensors"
MOMENTS = "moments.safetensors"
AVERAGE = "average.safetensors"
RANK_STATE = "rank-{:05d}.pt"
STATISTICS = ("running_mean", "running_var")


class CheckpointManager:
    """Saves and loads one run's checkpoints; every method but `wait` is collective."""

    def __init__(
        self,
        run: RunDirectory,
        engine: Any,
        exchange: SyncStrategy,
        average: ModelEMA,
        plain: YOLOv5,
        identity: RunConfig,
        ranks: DistributedContext,
        keep: int,
        tell: Callable[[str], None],
    ) -> None:
        """`plain` is a network of the same shape, which holds the averaged weights where something is saved or loaded."""
        self.run = run
        self.state = FullState(engine)
        self.exchange = exchange
        self.average = average
        self.plain = plain
        self.identity = identity
        self.ranks = ranks
        self.keep = keep
        self.tell = tell
        self._fence = FencingToken.of_this_process(run.path)
        self._writing: threading.Thread | None = None
        self._problem: str | None = None

    # --- saving -------------------------------------------------------------------------------------------------

    def save(self, progress: TrainState) -> None:
        """Save what the run is now; training goes on while the first rank's disk writes.

        `plain` holds the averaged weights (`ModelEMA.write_into` was called on it). What cannot be written is told,
        and the run goes on: the checkpoints that there are stay.
        """
        folder = self.run.checkpoints / progress.tag
        part = part_of(folder)
        mine = self._rank_state()
        problem = None
        if self.ranks.is_main:
            self.wait()
            problem = self._make_room(part, len(mine))
        problem = broadcast_object(self.ranks, problem)
        if problem is None:
            weights, moments = self._mean_weights(), self.state.moments()
            name = RANK_STATE.format(self.ranks.rank)
            written = all_gather_object(self.ranks, _written(part / name, mine))
            problems = [
                f"rank {rank}: {each}" for rank, each in enumerate(written) if isinstance(each, str)
            ]
            problem = "; ".join(problems) or None
        if not self.ranks.is_main:
            return
        if problem is not None:
            self._give_up(folder, problem)
            return
        digests = {RANK_STATE.format(rank): each for rank, each in enumerate(written)}
        saved = CheckpointMetadata(self.identity, progress, self.state.counters, self.state.scaler)
        files = {
            WEIGHTS: _on_host(weights),
            MOMENTS: _on_host(moments),
            AVERAGE: _on_host(self.plain.state_dict()),
        }
        text = json.dumps(asdict(saved), indent=1)
        self._writing = threading.Thread(target=self._write, args=(folder, files, text, digests))
        self._writing.start()

    def wait(self) -> None:
        """Wait until what was saved last is on the disk, and say so where it is not; the first rank's to call."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            self.tell(problem)

    def _refuse_if_superseded(self) -> None:
        if self._fence.is_stale:
            raise OSError("the run was started again, and this is an earlier start")

    def _mean_weights(self) -> dict[str, torch.Tensor]:
        """The weights, with BatchNorm's statistics as their mean over the ranks; collective."""
        weights = self.state.weights()
        means = {name: t.clone() for name, t in weights.items() if name.endswith(STATISTICS)}
        all_reduce_mean(list(means.values()))
        return weights | means

    def _make_room(self, part: Path, rank_bytes: int) -> str | None:
        parameters = sum(p.numel() * p.element_size() for p in self.plain.parameters())
        size = 4 * parameters + self.ranks.world_size * rank_bytes  # weights, average, two moments
        try:
            self._refuse_if_superseded()
            remove_unfinished(self.run.checkpoints)
            if lack := room_for(size, self.run.checkpoints):
                return f"no space: {lack}"
            part.mkdir()
        except OSError as error:
            return str(error)
        return None

    def _rank_state(self) -> memoryview:
        content = io.BytesIO()
        torch.save(
            {
                "kind": self.exchange.kind,
                "exchange": self.exchange.rank_state(),
                "statistics": statistics(self.average.trained),
                "average_statistics": self.average.buffers,
                "random": torch.get_rng_state(),
            },
            content,
        )
        return content.getbuffer()

    def _write(
        self,
        folder: Path,
        files: Mapping[str, Mapping[str, torch.Tensor]],
        text: str,
        digests: dict[str, dict[str, Any]],
    ) -> None:
        """In a thread of its own; leaves what went wrong in `_problem`."""
        part = part_of(folder)
        try:
            for name, tensors in files.items():
                _refuse_spoilt(name, tensors)
                write_synced(part / name, save(dict(tensors)))
            write_synced(part / STATE, text.encode())
            digests |= {name: digest_of(part / name) for name in (*files, STATE)}
            self._refuse_if_superseded()
            commit(part, folder, digests)
        except Exception as error:  # in a thread, whatever it is would go unheard
            shutil.rmtree(part, ignore_errors=True)
            self._problem = self._not_saved(folder, str(error) or type(error).__name__)
            return
        try:
            self._remove_older(folder)
        except OSError as error:
            self._problem = f"warning: {folder.parent}: older checkpoints stay: {error}"

    def _give_up(self, folder: Path, problem: str) -> None:
        shutil.rmtree(part_of(folder), ignore_errors=True)
        self.tell(self._not_saved(folder, problem))

    def _not_saved(self, folder: Path, problem: str) -> str:
        last = next(iter(self.run.published()), None)
        what = f"the last checkpoint is {last.name}" if last else "there is no checkpoint yet"
        return f"warning: {folder}: could not be saved: {problem}; training goes on, and {what}"

    def _remove_older(self, newest: Path) -> None:
        """The `keep` newest stay, and that of the highest AP."""
        published = self.run.published()
        best = max(published, key=_ap)
        older = [folder for folder in published if folder != newest][self.keep - 1 :]
        remove(folder for folder in older if folder != best)
        sync_folder(self.run.checkpoints)

    # --- loading ------------------------------------------------------------------------------------------------

    def load(self, folder: Path) -> TrainState:
        """Make the run what it was when the checkpoint in a folder was saved; returns how far it had come.

        Settings that differ from the checkpoint's are told. Raises CheckpointError where it cannot be read or is of a run
        that this one cannot go on with.
        """
        saved = self._agreed_state(folder)
        if why := self.identity.incompatibility(
            saved.identity, saved.progress.steps_into_epoch > 0
        ):
            raise CheckpointError(f"{folder}: {why}")
        for change in self.identity.changes_since(saved.identity):
            self.tell(change)
        return self.take_up(folder, saved)

    def take_up(self, folder: Path, saved: CheckpointMetadata | None = None) -> TrainState:
        """The same for a checkpoint of this very run."""
        saved = saved or self._agreed_state(folder)
        problem = None
        try:
            self._read_all(folder, saved)
        except Exception as error:  # a torn file raises whatever its bytes happen to spell
            problem = " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])
        problems = [each for each in all_gather_object(self.ranks, problem) if each is not None]
        if problems:  # of one rank's own file the others know nothing
            raise CheckpointError(unreadable(folder, problems[0]))
        return saved.progress

    def _read_all(self, folder: Path, saved: CheckpointMetadata) -> None:
        self.state.load_weights(_read(folder / WEIGHTS))
        self.state.load_moments(_read(folder / MOMENTS), saved.counters)
        self.state.load_scaler(saved.scaler)
        self.exchange.on_weights_loaded()
        self.plain.load_state_dict(_read(folder / AVERAGE))
        self.average.read_from(self.plain, saved.progress.average_updates)
        self._load_rank_state(folder, saved.identity.world_size)

    def _load_rank_state(self, folder: Path, saved_ranks: int) -> None:
        is_own = saved_ranks == self.ranks.world_size
        path = folder / RANK_STATE.format(self.ranks.rank if is_own else 0)
        kept = torch.load(path, map_location="cpu", weights_only=True)
        if is_own:  # else all begin with the mean, which lies with the whole tensors
            mine = [*statistics(self.average.trained), *self.average.buffers]
            theirs = [*kept["statistics"], *kept["average_statistics"]]
            with torch.no_grad():
                for tensor, value in zip(mine, theirs, strict=True):
                    tensor.copy_(value)
            torch.set_rng_state(kept["random"])
        if not isinstance(kept["kind"], str) or not isinstance(kept["exchange"], dict):
            raise ValueError(f"{path.name}: does not say which exchange it is of")
        is_same_kind = kept["kind"] == self.exchange.kind
        if is_same_kind:
            self.exchange.load_rank_state(kept["exchange"], is_own)
        if is_same_kind and kept["exchange"] and not is_own:
            self.tell(
                f"the checkpoint was saved on {saved_ranks} ranks; what {self.exchange.kind} keeps on each is taken from the "
                "first, and error feedback, where there is any, begins anew"
            )
        elif not is_same_kind and self.exchange.rank_state():
            self.tell(
                f"the checkpoint was saved under the exchange {kept['kind']}; what {self.exchange.kind} keeps on each rank, "
                "error feedback above all, begins anew"
            )

    def _agreed_state(self, folder: Path) -> CheckpointMetadata:
        """As the first rank reads it; an error reaches all."""
        state = run_on_main(self.ranks, lambda: CheckpointMetadata.read(folder))
        seen = all_gather_object(self.ranks, folder.is_dir())
        if blind := [rank for rank, is_seen in enumerate(seen) if not is_seen]:
            raise CheckpointError(
                f"{folder}: ranks {blind} do not see it; the folder `runs` must be one that all machines share"
            )
        return state


def _written(path: Path, content: memoryview) -> dict[str, Any] | str:
    """The digest of a file that was written, or why it could not be."""
    try:
        write_synced(path, content)
        return digest_of(path)
    except OSError as error:
        return str(error)


def _on_host(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies that training does not change while they are written."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def _read(path: Path) -> dict[str, torch.Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    _refuse_spoilt(path.name, tensors)
    return tensors


def _refuse_spoilt(file: str, tensors: Mapping[str, torch.Tensor]) -> None:
    spoilt = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if spoilt:
        raise ValueError(f"{file}: {spoilt[0]} has numbers that are not finite")


def _ap(folder: Path) -> float:
    try:
        ap = CheckpointMetadata.read(folder).progress.ap
    except CheckpointError:
        return -1.0
    return -1.0 if ap is None else ap
