"""The length of each step of the 1-bit optimizers while clipping shortens all gradients: synthetic ones, the ranks' own
differ by noise.

`--raised false` keeps the bound of the mean for the ranks' own gradients, which is longer than they may be then.
"""

import json
from typing import Any

import deepspeed.comm as dist
import torch

from tests.workers.arguments import worker_arguments
from yolo.communication.optimizers.flat_optimizer import FlatOptimizer
from yolo.communication.optimizers.onebit_adam import OneBitAdam
from yolo.communication.optimizers.onebit_lamb import OneBitLamb
from yolo.communication.optimizers.zero_one_adam import ZeroOneAdam
from yolo.recipe import prepare
from yolo.training.engine.distributed import init_distributed, shutdown_distributed

SHAPES = [(64, 3, 3, 3), (64,), (128, 64, 3, 3), (128,), (80, 128)]
STEPS, FREEZE = 160, 80
NOISE = 0.02
"""Standard deviation of an element between ranks; that of the part that all ranks share is 0.005."""


class Engine:
    enable_backward_allreduce = True


def lengths(kind: type[FlatOptimizer], settings: dict[str, Any], rank: int) -> list[float]:
    shared = torch.Generator().manual_seed(1)
    own = torch.Generator().manual_seed(100 + rank)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=shared)) for shape in SHAPES]
    optimizer = kind(weights, lr=1e-3, betas=(0.9, 0.99), **settings)
    engine = Engine()
    optimizer.attach(engine, clipping=1.0)
    found = []
    for _ in range(STEPS):
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            signal = torch.randn(weight.shape, generator=shared)
            weight.grad = 0.005 * signal + NOISE * torch.randn(weight.shape, generator=own)
            if engine.enable_backward_allreduce:
                dist.all_reduce(weight.grad)
                weight.grad /= dist.get_world_size()
        optimizer.step()
        moved = [(new.detach() - old).norm() for new, old in zip(weights, before, strict=True)]
        found.append(float(torch.stack(moved).norm()))
    return found


def main() -> None:
    parser = worker_arguments()
    parser.add_argument("--raised", default="true")
    options = parser.parse_args()
    recipe = prepare("recipes/demo.yaml", ["train.global_batch=16"], world_size=2).resolved.recipe
    ranks = init_distributed(recipe)
    if options.raised == "false":
        from yolo.communication.optimizers import gradient_coherence

        gradient_coherence.GradientCoherence.ratio = 1.0
    policies = {"var_freeze_step": FREEZE, "var_update_scaler": 1000, "local_step_clipper": 1}
    found = {
        "OneBitAdam": lengths(OneBitAdam, {"freeze_step": FREEZE}, ranks.rank),
        "OneBitLamb": lengths(OneBitLamb, {"freeze_step": FREEZE}, ranks.rank),
        "ZeroOneAdam": lengths(ZeroOneAdam, policies, ranks.rank),
    }
    if ranks.is_main:
        options.out.write_text(json.dumps(found))


main()
shutdown_distributed()
