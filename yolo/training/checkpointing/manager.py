"""Checkpoints: the full state of a run at one step, in a folder that is valid or absent.

Saving changes nothing in the run: a run that is saved more often, or that is killed and resumed from any checkpoint, ends
with the same bits. Tensors are stored in full (`FullState`), so that a run can resume with another number of ranks and
under another ZeRO stage. What only one rank knows is stored in a file per rank.
"""

import io
import json
import logging
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from yolo.communication.coalesced import all_reduce_mean
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
from yolo.training.checkpointing.train_state import TrainProgress, TrainState
from yolo.training.engine.batchnorm import batchnorm_statistics
from yolo.training.engine.distributed import (
    DistributedContext,
    all_gather_object,
    broadcast_object,
    run_on_main,
)
from yolo.training.resilience.fencing import FencingToken

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
MOMENTS = "moments.safetensors"
AVERAGE = "average.safetensors"
RANK_STATE = "rank-{:05d}.pt"
STATISTICS = ("running_mean", "running_var")


class CheckpointManager:
    """Saves and loads one run's checkpoints; every method except `wait` is collective."""

    def __init__(
        self,
        run: RunDirectory,
        state: TrainState,
        plain: YOLOv5,
        config: RunConfig,
        context: DistributedContext,
        keep: int,
    ) -> None:
        """`plain`: a network of the same shape, which holds the averaged weights when a checkpoint is saved or loaded."""
        self.run = run
        self.state = state
        self.tensors = FullState(state.engine)
        self.plain = plain
        self.config = config
        self.context = context
        self.keep = keep
        self._token = FencingToken.of_this_process(run.path)
        self._writing: threading.Thread | None = None
        self._problem: str | None = None

    # --- saving -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Save the run's state; training continues while the main rank's disk writes.

        `plain` must hold the averaged weights (`ModelEMA.write_into`). A checkpoint that cannot be written is logged, and
        the run continues: the earlier checkpoints stay.
        """
        progress = self.state.state_dict()
        folder = self.run.checkpoints / progress.tag
        part = part_of(folder)
        mine = self._rank_state()
        problem = None
        if self.context.is_main:
            self.wait()
            problem = self._make_room(part, len(mine))
        problem = broadcast_object(self.context, problem)
        if problem is None:
            weights, moments = self._mean_weights(), self.tensors.moments()
            name = RANK_STATE.format(self.context.rank)
            written = all_gather_object(self.context, _written(part / name, mine))
            problems = [
                f"rank {rank}: {each}" for rank, each in enumerate(written) if isinstance(each, str)
            ]
            problem = "; ".join(problems) or None
        if not self.context.is_main:
            return
        if problem is not None:
            shutil.rmtree(part, ignore_errors=True)
            logger.warning(self._not_saved(folder, problem))
            return
        digests = {RANK_STATE.format(rank): each for rank, each in enumerate(written)}
        saved = CheckpointMetadata(
            self.config, progress, self.tensors.counters, self.tensors.scaler
        )
        files = {
            WEIGHTS: _on_host(weights),
            MOMENTS: _on_host(moments),
            AVERAGE: _on_host(self.plain.state_dict()),
        }
        text = json.dumps(asdict(saved), indent=1)
        self._writing = threading.Thread(target=self._write, args=(folder, files, text, digests))
        self._writing.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, and log if it is not; for the main rank to call."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            logger.warning(problem)

    def _refuse_if_superseded(self) -> None:
        if self._token.is_stale:
            raise OSError("the run was started again, and this process belongs to an earlier start")

    def _mean_weights(self) -> dict[str, torch.Tensor]:
        """The weights, with BatchNorm's statistics as their mean over the ranks; collective."""
        weights = self.tensors.weights()
        means = {name: t.clone() for name, t in weights.items() if name.endswith(STATISTICS)}
        all_reduce_mean(list(means.values()))
        return weights | means

    def _make_room(self, part: Path, rank_bytes: int) -> str | None:
        parameters = sum(p.numel() * p.element_size() for p in self.plain.parameters())
        # Weights, average and two moments, and the ranks' own files.
        size = 4 * parameters + self.context.world_size * rank_bytes
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
                "kind": self.state.strategy.kind,
                "exchange": self.state.strategy.rank_state(),
                "statistics": batchnorm_statistics(self.state.engine.module),
                "average_statistics": self.state.ema.buffers,
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
        """Write a checkpoint, in a thread of its own; an error is kept in `_problem`."""
        part = part_of(folder)
        try:
            for name, tensors in files.items():
                _refuse_nonfinite(name, tensors)
                write_synced(part / name, save(dict(tensors)))
            write_synced(part / STATE, text.encode())
            digests |= {name: digest_of(part / name) for name in (*files, STATE)}
            self._refuse_if_superseded()
            commit(part, folder, digests)
        except Exception as error:  # in a thread, no error would be seen
            shutil.rmtree(part, ignore_errors=True)
            self._problem = self._not_saved(folder, str(error) or type(error).__name__)
            return
        try:
            self._remove_older(folder)
        except OSError as error:
            self._problem = f"{folder.parent}: older checkpoints stay: {error}"

    def _not_saved(self, folder: Path, problem: str) -> str:
        last = next(iter(self.run.published()), None)
        what = f"the last checkpoint is {last.name}" if last else "there is no checkpoint yet"
        return f"{folder}: could not be saved: {problem}; training continues, and {what}"

    def _remove_older(self, newest: Path) -> None:
        """Keep the `keep` newest, and the one of the highest AP."""
        published = self.run.published()
        best = max(published, key=_ap)
        older = [folder for folder in published if folder != newest][self.keep - 1 :]
        remove(folder for folder in older if folder != best)
        sync_folder(self.run.checkpoints)

    # --- loading ------------------------------------------------------------------------------------------------

    def load(self, folder: Path) -> None:
        """Restore the run's state as the checkpoint saved it.

        Settings that differ from the checkpoint's are logged. Raises CheckpointError if it cannot be read, or belongs to a
        run that this one cannot resume.
        """
        saved = self._read_metadata(folder)
        is_within_epoch = saved.progress.steps_into_epoch > 0
        if reason := self.config.incompatibility(saved.identity, is_within_epoch):
            raise CheckpointError(f"{folder}: {reason}")
        for change in self.config.changes_since(saved.identity):
            logger.info(change)
        self._restore(folder, saved)
        try:
            self.state.load_state_dict(saved.progress)
        except (KeyError, TypeError, ValueError) as error:  # state.json was altered
            raise CheckpointError(unreadable(folder, repr(error))) from error

    def restore(self, folder: Path) -> TrainProgress:
        """Restore the tensors of a checkpoint of this same run, not its position; returns the checkpoint's position."""
        saved = self._read_metadata(folder)
        self._restore(folder, saved)
        return saved.progress

    def _restore(self, folder: Path, saved: CheckpointMetadata) -> None:
        problem = None
        try:
            self._read_all(folder, saved)
        except Exception as error:  # a torn file can raise anything
            problem = " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])
        problems = [each for each in all_gather_object(self.context, problem) if each is not None]
        if problems:  # one rank's own file may be damaged; the others do not know
            raise CheckpointError(unreadable(folder, problems[0]))
        self.state.on_weights_loaded()

    def _read_all(self, folder: Path, saved: CheckpointMetadata) -> None:
        self.tensors.load_weights(_read(folder / WEIGHTS))
        self.tensors.load_moments(_read(folder / MOMENTS), saved.counters)
        self.tensors.load_scaler(saved.scaler)
        self.state.strategy.on_weights_loaded()
        self.plain.load_state_dict(_read(folder / AVERAGE))
        self.state.ema.read_from(self.plain, saved.progress.average_updates)
        self._load_rank_state(folder, saved.identity)

    def _load_rank_state(self, folder: Path, saved: RunConfig) -> None:
        strategy = self.state.strategy
        here = self.context.world_size, self.context.columns.count
        is_own = here == (saved.world_size, saved.columns)
        path = folder / RANK_STATE.format(self.context.rank if is_own else 0)
        kept = torch.load(path, map_location="cpu", weights_only=True)
        if is_own:  # otherwise all ranks start from the mean, which is stored with the full tensors
            statistics = batchnorm_statistics(self.state.engine.module)
            saved_statistics = [*kept["statistics"], *kept["average_statistics"]]
            with torch.no_grad():
                for tensor, value in zip(
                    [*statistics, *self.state.ema.buffers], saved_statistics, strict=True
                ):
                    tensor.copy_(value)
            torch.set_rng_state(kept["random"])
        if not isinstance(kept["kind"], str) or not isinstance(kept["exchange"], dict):
            raise ValueError(f"{path.name}: names no communication strategy")
        is_same_kind = kept["kind"] == strategy.kind
        if is_same_kind:
            strategy.load_rank_state(kept["exchange"], is_own)
        if is_same_kind and kept["exchange"] and not is_own:
            logger.info(
                f"the checkpoint was saved on {saved.world_size} ranks with {saved.columns} columns of an image; the state that "
                f"{strategy.kind} keeps per rank is taken from the first one, and error feedback, if any, starts from zero"
            )
        elif not is_same_kind and strategy.rank_state():
            logger.info(
                f"the checkpoint was saved under the strategy {kept['kind']}; the state that {strategy.kind} keeps per rank "
                "starts from zero, including error feedback"
            )

    def _read_metadata(self, folder: Path) -> CheckpointMetadata:
        """Read state.json on the main rank; an error is raised on all."""
        state = run_on_main(self.context, lambda: CheckpointMetadata.read(folder))
        seen = all_gather_object(self.context, folder.is_dir())
        if blind := [rank for rank, is_seen in enumerate(seen) if not is_seen]:
            raise CheckpointError(
                f"{folder}: ranks {blind} do not see it; the folder `runs` must be one that all machines share"
            )
        return state


def _written(path: Path, content: memoryview) -> dict[str, Any] | str:
    """Write a file; returns its digest, or the error."""
    try:
        write_synced(path, content)
        return digest_of(path)
    except OSError as error:
        return str(error)


def _on_host(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in host memory, which training does not change while they are written."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def _read(path: Path) -> dict[str, torch.Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    _refuse_nonfinite(path.name, tensors)
    return tensors


def _refuse_nonfinite(file: str, tensors: Mapping[str, torch.Tensor]) -> None:
    nonfinite = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if nonfinite:
        raise ValueError(f"{file}: {nonfinite[0]} has non-finite values")


def _ap(folder: Path) -> float:
    try:
        ap = CheckpointMetadata.read(folder).progress.ap
    except CheckpointError:
        return -1.0
    return -1.0 if ap is None else ap
