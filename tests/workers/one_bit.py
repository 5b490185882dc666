"""The 1-bit optimizers on synthetic gradients in float64: every rank's weights after each step.

The worker replaces DeepSpeed's engine: it averages gradients if the optimizer needs that.
"""

import json
from typing import Any

import deepspeed.comm as dist
import numpy as np
import torch

from tests.communication.optimizers import synthetic
from tests.workers.arguments import worker_arguments
from yolo.communication.optimizers.flat_optimizer import FlatOptimizer
from yolo.communication.optimizers.onebit_adam import OneBitAdam
from yolo.communication.optimizers.onebit_lamb import OneBitLamb
from yolo.communication.optimizers.zero_one_adam import ZeroOneAdam
from yolo.recipe import prepare
from yolo.training.engine.distributed import init_distributed, shutdown_distributed

STEPS = 40


class StandIn:
    enable_backward_allreduce = True


def weights_after_each_step(
    kind: type[FlatOptimizer], settings: dict[str, Any], rank: int
) -> list[list[list[float]]]:
    parameters = [
        torch.nn.Parameter(torch.from_numpy(values).view(shape))
        for values, shape in zip(synthetic.start(), synthetic.SHAPES, strict=True)
    ]
    groups = [
        {"params": [parameters[k] for k in members], "lr": lr, "weight_decay": decay}
        for members, lr, decay in zip(
            synthetic.GROUPS, synthetic.RATES, synthetic.DECAYS, strict=True
        )
    ]
    optimizer = kind(groups, betas=(0.9, 0.99), **settings)
    engine = StandIn()
    optimizer.attach(engine, clipping=0.0)
    history = []
    for step in range(1, STEPS + 1):
        now = [parameter.detach().numpy().reshape(-1) for parameter in parameters]
        for parameter, values in zip(parameters, synthetic.gradient(rank, step, now), strict=True):
            parameter.grad = torch.from_numpy(values).view(parameter.shape)
            if engine.enable_backward_allreduce:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        optimizer.step()
        history.append([np.array(p.detach()).reshape(-1).tolist() for p in parameters])
    return history


def main() -> None:
    options = worker_arguments().parse_args()
    recipe = prepare("recipes/demo.yaml", ["train.global_batch=16"], world_size=2).resolved.recipe
    ranks = init_distributed(recipe)
    policies = {
        "var_freeze_step": 14,
        "var_update_scaler": 4,
        "local_step_scaler": 6,
        "local_step_clipper": 4,
    }
    kinds = (
        (OneBitAdam, {"freeze_step": 12}),
        (OneBitLamb, {"freeze_step": 12}),
        (ZeroOneAdam, policies),
    )
    found = {
        kind.__name__: weights_after_each_step(kind, settings, ranks.rank)
        for kind, settings in kinds
    }
    of_ranks: list[Any] = [None] * ranks.world_size
    torch.distributed.all_gather_object(of_ranks, found)
    if ranks.is_main:
        options.out.write_text(json.dumps(of_ranks))


main()
shutdown_distributed()
