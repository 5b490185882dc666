"""An exponential moving average of the weights that is right under every ZeRO stage.

Under stages 0 to 2 every rank holds whole weights after a step, and averages them. Under stage 3 it holds a shard of
each, and averages its shard: averaging is element by element, so nothing need be sent until whole weights are wanted.
"""

import math

import torch
from torch import nn

from yolo.communication.coalesced import all_reduce_mean
from yolo.recipe.schema.train import TrainSection
from yolo.training.engine.zero_shards import gather_full, local_shard, shard


class ModelEMA:
    """The average of a network's parameters and BatchNorm statistics over the steps.

    `settings.ema: false` makes it the newest weights.
    """

    def __init__(self, trained: nn.Module, settings: TrainSection) -> None:
        self.trained = trained
        self.settings = settings
        self.updates = 0
        self.parameters = [local_shard(parameter).clone() for parameter in trained.parameters()]
        self.buffers = [buffer.detach().clone() for buffer in statistics(trained)]

    @torch.no_grad()
    def update(self, steps: int = 1) -> None:
        """Take in the weights after a step, or after several for which they were not the same on all ranks.

        The decay grows with the steps, so that the start is soon forgotten.
        """
        self.updates += steps
        current = [local_shard(parameter) for parameter in self.trained.parameters()]
        current += [statistic.detach() for statistic in statistics(self.trained)]
        averages = [*self.parameters, *self.buffers]
        power = steps * self.settings.ema_steps_per_step
        torch._foreach_lerp_(averages, current, 1 - self.decay**power)

    @property
    def decay(self) -> float:
        """The share of the average that the next weights leave standing in a step of the average."""
        if not self.settings.ema:
            return 0.0
        steps = self.updates * self.settings.ema_steps_per_step
        return self.settings.ema_decay * (1 - math.exp(-steps / self.settings.ema_ramp_steps))

    @torch.no_grad()
    def write_into(self, model: nn.Module) -> None:
        """Put the whole average into a plain network; collective: all ranks must call it.

        BatchNorm's statistics, which each rank gathers from its own images, become their mean over the ranks there. The
        run itself is left as it is, so that it ends the same however often it is looked at or saved.
        """
        full = gather_full(list(self.trained.parameters()), self.parameters)
        for target, source in zip(model.parameters(), full, strict=True):
            target.copy_(source)
        targets = statistics(model)
        for statistic, source in zip(targets, self.buffers, strict=True):
            statistic.copy_(source)
        all_reduce_mean(targets)

    @torch.no_grad()
    def read_from(self, model: nn.Module, updates: int) -> None:
        """Go on from a whole average, as `write_into` left it in a plain network."""
        self.updates = updates
        for average, parameter, source in zip(
            self.parameters, self.trained.parameters(), model.parameters(), strict=True
        ):
            average.copy_(shard(parameter, source))
        for average, statistic in zip(self.buffers, statistics(model), strict=True):
            average.copy_(statistic)


def statistics(model: nn.Module) -> list[torch.Tensor]:
    """BatchNorm's running means and variances."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
