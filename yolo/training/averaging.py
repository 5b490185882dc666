"""An exponential moving average of the weights that is right under every ZeRO stage.

Under stages 0 to 2 every rank holds whole weights after a step, and averages them. Under stage 3 it holds a shard of
each, and averages its shard: averaging is element by element, so nothing need be sent until whole weights are wanted.
"""

import math
from typing import Any

import torch
from torch import nn

from yolo.communication.flat import average_over_ranks, gather_flat
from yolo.recipe.sections.train import TrainSection


class WeightAverage:
    """The average of a network's parameters and BatchNorm statistics over the steps.

    `settings.ema: false` makes it the newest weights.
    """

    def __init__(self, trained: nn.Module, settings: TrainSection) -> None:
        self.trained = trained
        self.settings = settings
        self.updates = 0
        self.parameters = [_held(parameter).clone() for parameter in trained.parameters()]
        self.buffers = [buffer.detach().clone() for buffer in _statistics(trained)]

    @torch.no_grad()
    def update(self, steps: int = 1) -> None:
        """Take in the weights after a step, or after several for which they were not the same on all ranks.

        The decay grows with the steps, so that the start is soon forgotten.
        """
        self.updates += steps
        current = [_held(parameter) for parameter in self.trained.parameters()]
        current += [statistic.detach() for statistic in _statistics(self.trained)]
        averages = [*self.parameters, *self.buffers]
        torch._foreach_lerp_(averages, current, 1 - self.decay**steps)

    @property
    def decay(self) -> float:
        """The share of the average that the next weights leave standing."""
        if not self.settings.ema:
            return 0.0
        return self.settings.ema_decay * (
            1 - math.exp(-self.updates / self.settings.ema_ramp_steps)
        )

    @torch.no_grad()
    def write_into(self, model: nn.Module) -> None:
        """Put the whole average into a plain network; collective: all ranks must call it.

        BatchNorm's statistics, which each rank gathers from its own images, are made equal on all ranks first, in the
        average and in the network under training.
        """
        average_over_ranks([*self.buffers, *_statistics(self.trained)])
        whole = _whole(list(self.trained.parameters()), self.parameters)
        for target, source in zip(model.parameters(), whole, strict=True):
            target.copy_(source)
        for statistic, source in zip(_statistics(model), self.buffers, strict=True):
            statistic.copy_(source)

    @torch.no_grad()
    def read_from(self, model: nn.Module, updates: int) -> None:
        """Go on from a whole average, as `write_into` left it in a plain network."""
        self.updates = updates
        for average, parameter, source in zip(
            self.parameters, self.trained.parameters(), model.parameters(), strict=True
        ):
            average.copy_(_shard_of(parameter, source))
        for average, statistic in zip(self.buffers, _statistics(model), strict=True):
            average.copy_(statistic)


def _statistics(model: nn.Module) -> list[torch.Tensor]:
    """BatchNorm's running means and variances."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]


def _held(parameter: Any) -> torch.Tensor:
    """What this rank holds of a parameter: all of it, or under stage 3 its shard (flat, padded to equal sizes)."""
    held: torch.Tensor = getattr(parameter, "ds_tensor", parameter).detach()
    return held


def _whole(parameters: list[Any], held: list[torch.Tensor]) -> list[torch.Tensor]:
    if not hasattr(parameters[0], "ds_tensor"):
        return held
    gathered = gather_flat(held)
    return [
        pieces.reshape(-1)[: parameter.ds_numel].view(parameter.ds_shape)
        for parameter, pieces in zip(parameters, gathered, strict=True)
    ]


def _shard_of(parameter: Any, whole: torch.Tensor) -> torch.Tensor:
    if not hasattr(parameter, "ds_tensor"):
        return whole
    size = parameter.ds_tensor.numel()
    start = torch.distributed.get_rank() * size
    padded = whole.new_zeros(size * torch.distributed.get_world_size())
    padded[: whole.numel()] = whole.reshape(-1)
    return padded[start : start + size]
