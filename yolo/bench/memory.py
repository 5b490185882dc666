"""What a rank's tensors take, by part: counted on the live engine."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from yolo.bench.trainer import Stopwatch, Trainer


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of the memory behind some tensors; what several are views of counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def parameter_bytes(trainer: Trainer) -> int:
    """Of what the rank holds of the network's parameters: under stage 3 its shards and what it keeps whole."""
    parameters = list(trainer.model.parameters())
    shards = [p.ds_tensor for p in parameters if hasattr(p, "ds_tensor")]
    whole = [p.data for p in parameters if p.numel()]
    return storage_bytes([*shards, *whole])


def optimizer_bytes(trainer: Trainer) -> int:
    """Of moments and master copies, and of the vectors that a 1-bit optimizer keeps beside them."""
    optimizer = trainer.learner.optimizer
    tensors = list(_tensors(dict(getattr(optimizer, "optimizer", optimizer).state)))
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        tensors += list(getattr(optimizer, name, ()))
    for name in ("momentum", "variance", "update", "denominator", "accumulated"):
        if isinstance(vector := getattr(optimizer, name, None), torch.Tensor):
            tensors.append(vector)
    return storage_bytes(tensors)


def gradient_bytes(trainer: Trainer) -> int:
    """Of gradients between backward and the optimizer's step: one more step is taken. Collective."""
    watch = _GradientScale(trainer)
    trainer.step(watch)
    return watch.found


class _GradientScale(Stopwatch):
    """Weighs gradients when backward is over."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer.ranks.device)
        self.trainer = trainer
        self.found = 0

    def stop(self, part: str) -> None:
        if part == "backward":
            optimizer = self.trainer.learner.optimizer
            tensors = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
            for name in (
                "averaged_gradients",
                "_DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition",
            ):
                tensors += list(_tensors(getattr(optimizer, name, None)))
            self.found = storage_bytes(tensors)


def _tensors(holder: Any) -> Iterator[torch.Tensor]:
    if isinstance(holder, torch.Tensor):
        yield holder
    elif isinstance(holder, dict):
        for value in holder.values():
            yield from _tensors(value)
    elif isinstance(holder, list | tuple):
        for value in holder:
            yield from _tensors(value)
