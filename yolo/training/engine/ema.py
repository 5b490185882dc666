"""Exponential moving average (EMA) of the weights, correct under every ZeRO stage.

Under stages 0 to 2 every rank holds full weights after a step, and averages them. Under stage 3 it holds a shard of each
weight, and averages its shard: averaging is element-wise, so nothing is sent until full weights are needed.
"""

import math

import torch
from torch import nn

from yolo.communication.coalesced import all_reduce_mean
from yolo.recipe.schema.train import TrainSection
from yolo.training.engine.batchnorm import batchnorm_statistics
from yolo.training.engine.zero_shards import gather_full, local_shard, shard


class ModelEMA:
    """The average of a network's parameters and BatchNorm statistics over the steps.

    With `settings.ema: false`, it is the newest weights.
    """

    def __init__(self, trained: nn.Module, settings: TrainSection) -> None:
        self.trained = trained
        self.settings = settings
        self.updates = 0
        """Steps averaged so far."""
        self.pending_steps = 0
        """Steps that wait to be averaged until all ranks have the same weights."""
        self.parameters = [local_shard(parameter).clone() for parameter in trained.parameters()]
        self.buffers = [buffer.detach().clone() for buffer in batchnorm_statistics(trained)]

    @torch.no_grad()
    def update(self, steps: int = 1, is_synced: bool = True) -> None:
        """Average in the weights after `steps` more steps; deferred until ranks are synced.

        The decay grows with the steps, so that the start is soon forgotten.
        """
        self.pending_steps += steps
        if not (is_synced and self.pending_steps):
            return
        self.updates += self.pending_steps
        current = [local_shard(parameter) for parameter in self.trained.parameters()]
        current += [statistic.detach() for statistic in batchnorm_statistics(self.trained)]
        averages = [*self.parameters, *self.buffers]
        power = self.pending_steps * self.settings.ema_steps_per_step
        torch._foreach_lerp_(averages, current, 1 - self.decay**power)
        self.pending_steps = 0

    @property
    def decay(self) -> float:
        """The weight of the old average in one step of averaging."""
        if not self.settings.ema:
            return 0.0
        steps = self.updates * self.settings.ema_steps_per_step
        return self.settings.ema_decay * (1 - math.exp(-steps / self.settings.ema_ramp_steps))

    @torch.no_grad()
    def write_into(self, model: nn.Module) -> None:
        """Copy the full average into a plain network; collective.

        BatchNorm's statistics, which differ between ranks, become their mean over the ranks there. The run itself does not
        change, so that it ends the same however often it is evaluated or saved.
        """
        full = gather_full(list(self.trained.parameters()), self.parameters)
        for target, source in zip(model.parameters(), full, strict=True):
            target.copy_(source)
        targets = batchnorm_statistics(model)
        for statistic, source in zip(targets, self.buffers, strict=True):
            statistic.copy_(source)
        all_reduce_mean(targets)

    @torch.no_grad()
    def read_from(self, model: nn.Module, updates: int) -> None:
        """Restore a full average from a plain network, as `write_into` left it."""
        self.updates = updates
        for average, parameter, source in zip(
            self.parameters, self.trained.parameters(), model.parameters(), strict=True
        ):
            average.copy_(shard(parameter, source))
        for average, statistic in zip(self.buffers, batchnorm_statistics(model), strict=True):
            average.copy_(statistic)
