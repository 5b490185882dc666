"""The 1-bit optimizers while clipping shortens every gradient: synthetic ones, of which a small part is the same on all ranks.

Reported per optimizer: the length of each step, with and without clipping, and the operations that torch launches in one.
The collectives' own are left out: gloo copies each rank's part by itself.
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import deepspeed.comm as dist
import torch
from torch.profiler import ProfilerActivity, profile

from tests.workers.arguments import worker_arguments
from yolo.communication.coalesced import all_reduce_mean
from yolo.communication.optimizers.flat_optimizer import FlatOptimizer
from yolo.communication.optimizers.onebit_adam import OneBitAdam
from yolo.communication.optimizers.onebit_lamb import OneBitLamb
from yolo.communication.optimizers.zero_one_adam import ZeroOneAdam
from yolo.recipe import prepare
from yolo.training.engine.distributed import init_distributed, shutdown_distributed

SHAPES = [(32, 3, 3, 3), (32,), (64, 32, 3, 3), (64,)]
STEPS, FREEZE = 64, 30
CLIPPED = 0.5
"""A quarter of the mean gradient's norm on 2 ranks, half of it on 16."""
SHARED, OWN = 0.005, 0.02
"""Standard deviations of the part of an element that all ranks share, and of the rest."""


READS = ("tolist", "item", "__bool__", "__float__", "__int__")
"""How Python reads a number of a tensor: on a GPU the host waits for it."""


class Engine:
    enable_backward_allreduce = True


class Done:
    """A collective that has ended."""

    def wait(self) -> None:
        return None


def steps_of(
    kind: type[FlatOptimizer], settings: dict[str, Any], rank: int, clipping: float
) -> tuple[list[float], dict[str, int]]:
    shared = torch.Generator().manual_seed(1)
    own = torch.Generator().manual_seed(100 + rank)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=shared)) for shape in SHAPES]
    optimizer = kind(weights, lr=1e-3, betas=(0.9, 0.99), **settings)
    engine = Engine()
    optimizer.attach(engine, clipping)
    lengths: list[float] = []
    for _ in range(STEPS):
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.grad = SHARED * torch.randn(weight.shape, generator=shared)
            weight.grad += OWN * torch.randn(weight.shape, generator=own)
        if engine.enable_backward_allreduce:
            all_reduce_mean([weight.grad for weight in weights])
        optimizer.step()
        moved = [(new.detach() - old).norm() for new, old in zip(weights, before, strict=True)]
        lengths.append(float(torch.stack(moved).norm()))
    return lengths, operations_of(optimizer)


def operations_of(optimizer: FlatOptimizer) -> dict[str, int]:
    """How often one more step launches each operation, and reads a tensor in Python (`read`)."""

    def nothing(*_: Any, **__: Any) -> Done:
        return Done()

    def read(name: str) -> Callable[..., Any]:
        original = getattr(torch.Tensor, name)

        def counted(*arguments: Any) -> Any:
            reads.append(name)
            return original(*arguments)

        return counted

    reads: list[str] = []
    collectives = {"all_to_all_single": nothing, "all_gather_into_tensor": nothing}
    with (
        mock.patch.multiple(dist, **collectives),
        mock.patch.multiple(torch.Tensor, **{name: read(name) for name in READS}),
        profile(activities=[ProfilerActivity.CPU]) as profiled,
    ):
        optimizer.step()
    launched = [event.name for event in profiled.events() if event.name.startswith("aten::")]
    return Counter([*launched, *("read" for _ in reads)])


def main() -> None:
    options = worker_arguments().parse_args()
    recipe = prepare("recipes/demo.yaml", ["train.global_batch=16"], world_size=2).resolved.recipe
    ranks = init_distributed(recipe)
    policies = {"var_freeze_step": FREEZE, "var_update_scaler": 1000, "local_step_clipper": 1}
    kinds: dict[type[FlatOptimizer], dict[str, Any]] = {
        OneBitAdam: {"freeze_step": FREEZE},
        # Without its factors on the kept trust ratios, which move a step's length on purpose.
        OneBitLamb: {"freeze_step": FREEZE, "factor_min": 1.0, "factor_max": 1.0},
        ZeroOneAdam: policies,
    }
    found = {}
    for kind, settings in kinds.items():
        clipped, operations = steps_of(kind, settings, ranks.rank, CLIPPED)
        free, _ = steps_of(kind, settings, ranks.rank, 0.0)
        found[kind.__name__] = {"clipped": clipped, "free": free, "operations": operations}
    if ranks.is_main:
        options.out.write_text(json.dumps(found))


main()
shutdown_distributed()
