"""The compressed mean, the reducers, local SGD and the check of replicas, each against the expected result."""

import copy
import json
from typing import Any

import deepspeed.comm as dist
import torch

from tests.workers.arguments import worker_arguments
from yolo.communication.compression.blocks import BlockLayout
from yolo.communication.compression.compressed_allreduce import CompressedAllReduce
from yolo.communication.consistency import RanksDiverged, check_replicas_equal
from yolo.communication.metering.meter import TrafficMeter
from yolo.communication.optimizers.onebit_adam import OneBitAdam
from yolo.model import YOLOv5
from yolo.recipe import Recipe, prepare
from yolo.training.engine.build import build_strategy, start_engine
from yolo.training.engine.distributed import (
    DistributedContext,
    init_distributed,
    shutdown_distributed,
)

SGD = (
    *("optimizer.type=SGD", "optimizer.lr=0.1", "optimizer.momentum=0.0"),
    *("optimizer.nesterov=false", "train.gradient_clipping=1000", "train.global_batch=8"),
    "optimizer.weight_decay=0.0",
)


def recipe_of(*overrides: str) -> Recipe:
    return prepare("recipes/demo.yaml", [*SGD, *overrides], 2).resolved.recipe


def weights_after(
    ranks: DistributedContext, steps: int, *overrides: str
) -> tuple[torch.Tensor, Any]:
    """All weights in one vector after some steps on synthetic images, and the strategy."""
    recipe = recipe_of(*overrides)
    torch.manual_seed(0)
    engine = start_engine(YOLOv5("n", 3), recipe, ranks)
    strategy = build_strategy(engine, recipe)
    strategy.plan(warmup_steps=1, steps=100)
    generator = torch.Generator().manual_seed(1 + ranks.rank)
    accumulation = recipe.train.gradient_accumulation_steps
    for _ in range(steps):
        for _ in range(accumulation):
            images = torch.rand(2, 3, 64, 64, generator=generator)
            engine.backward(sum(level.square().mean() for level in engine(images)))
            strategy.reduce_gradients()
            engine.step()
        strategy.after_step()
    flat = torch.cat([p.detach().reshape(-1) for p in engine.module.parameters()])
    return flat, strategy


def apart(a: torch.Tensor, b: torch.Tensor, start: torch.Tensor) -> float:
    """Distance of two results, relative to the length of the movement from the start."""
    return float((a - b).norm() / (b - start).norm())


def is_same_everywhere(vector: torch.Tensor) -> bool:
    other = vector.clone()
    dist.broadcast(other, 0)
    return bool(all_gather_object(torch.equal(other, vector)))


def all_gather_object(value: bool) -> bool:
    every: list[Any] = [None] * dist.get_world_size()
    torch.distributed.all_gather_object(every, value)
    return all(every)


def compressed(ranks: DistributedContext) -> dict[str, Any]:
    """The received mean and the error feedback add up to the input."""
    torch.manual_seed(5)
    tensors = [torch.randn(700), torch.randn(16), torch.randn(33, 40)]
    layout = BlockLayout(tensors, ranks.world_size)
    mean = CompressedAllReduce(layout, torch.float64, extras=1)
    inputs, received = layout.vector(torch.float64), layout.vector(torch.float64)
    for step in range(30):
        vector = layout.vector(torch.float64)
        for view, tensor in zip(layout.views(vector), tensors, strict=True):
            view.copy_(tensor * (1 + ranks.rank + 0.1 * step))
        inputs += vector
        scalars = mean.average(vector, torch.tensor([float(ranks.rank)]))
        received += vector
    left = layout.vector(torch.float64)
    left += mean.worker_error
    dist.all_reduce(left)
    dist.all_reduce(inputs)
    server = torch.empty_like(left)
    dist.all_gather_into_tensor(server, mean.server_error)
    expected = inputs / ranks.world_size
    balance = received + server + left / ranks.world_size - expected
    return {
        "balance": float(balance[layout.is_real].abs().max() / expected.abs().max()),
        "left": float((server + left / 2)[layout.is_real].norm() / expected.norm()),
        "notes": scalars.flatten().tolist(),
        "same": is_same_everywhere(vector[layout.is_real]),
    }


def reducers(ranks: DistributedContext) -> dict[str, Any]:
    torch.manual_seed(0)
    start = torch.cat([p.detach().reshape(-1) for p in YOLOv5("n", 3).parameters()])
    plain, _ = weights_after(ranks, 3)
    found: dict[str, Any] = {"moved": float((plain - start).norm())}
    for name, overrides in {
        "overlapped": ("communication.reducer=overlapped",),
        "PowerSGD at full rank": (
            *("communication.reducer=powersgd", "communication.powersgd_start_step=2"),
            "communication.powersgd_rank=1000",
        ),
        "PowerSGD at rank 1": (
            *("communication.reducer=powersgd", "communication.powersgd_start_step=2"),
            "communication.powersgd_rank=1",
        ),
    }.items():
        weights, strategy = weights_after(ranks, 3, *overrides)
        found[name] = apart(weights, plain, start)
        if name == "overlapped":
            found["buckets"] = len(strategy.buckets)
    found["PowerSGD began"] = bool(strategy.state.error_dict)
    found["PowerSGD after a NaN"] = steps_after_a_nan(ranks)
    # One step: from the second on, bf16's rounding has made another network of it.
    plain_once, _ = weights_after(ranks, 1)
    bf16, _ = weights_after(
        ranks, 1, "communication.reducer=overlapped", "communication.data_type=bf16"
    )
    found["overlapped, bf16"] = apart(bf16, plain_once, start)
    accumulated = "train.gradient_accumulation_steps=2"
    plain_accumulated, _ = weights_after(ranks, 2, accumulated)
    weights, _ = weights_after(ranks, 2, accumulated, "communication.reducer=overlapped")
    found["overlapped, accumulated"] = apart(weights, plain_accumulated, start)

    averaging = ("communication.sync_every=2", "communication.outer_lr=1.0")
    averaged, strategy = weights_after(ranks, 2, *averaging, "communication.outer_momentum=0.0")
    alone, _ = weights_after(ranks, 2, "communication.sync_every=3")
    found["ranks part"] = not is_same_everywhere(alone)
    dist.all_reduce(alone)
    found["averaged weights"] = apart(averaged, alone / 2, start)
    found["together again"] = is_same_everywhere(averaged) and strategy.steps_since_sync == 0
    once, _ = weights_after(ranks, 2, *averaging, "communication.outer_momentum=0.5")
    nesterov = start + (1 + 0.5) * (averaged - start)  # the first velocity is the movement itself
    found["the first outer step"] = apart(once, nesterov, start)
    outer, _ = weights_after(ranks, 4, *averaging, "communication.outer_momentum=0.5")
    without, _ = weights_after(ranks, 4, *averaging, "communication.outer_momentum=0.0")
    found["outer momentum moves further"] = float((outer - start).norm() / (without - start).norm())
    return found


def one_bit(ranks: DistributedContext) -> dict[str, Any]:
    """1-bit Adam in DeepSpeed's engine; bf16 last, because DeepSpeed applies it to the full process."""
    found: dict[str, Any] = {}
    meter = TrafficMeter().attach()
    for case, variant, overrides in (
        ("fp32", "s", ()),
        ("accumulated", "n", ("train.gradient_accumulation_steps=2",)),
        ("bf16", "n", ("precision.dtype=bf16",)),
    ):
        settings = ("optimizer.type=OneBitAdam", "optimizer.freeze_step=1", *overrides)
        recipe = prepare(
            "recipes/demo.yaml", ["train.global_batch=8", *settings], 2
        ).resolved.recipe
        torch.manual_seed(ranks.rank)  # every rank gets the first one's weights
        meter.take()
        engine = start_engine(YOLOv5(variant, 80), recipe, ranks)
        broadcasts = meter.take().by_kind["broadcast"].calls
        for _ in range(3):
            for _ in range(recipe.train.gradient_accumulation_steps):
                images = torch.rand(1, 3, 64, 64)
                engine.backward(sum(level.square().mean() for level in engine(images)))
                meter.take()
                engine.step()
        traffic = meter.take()
        flat = torch.cat([p.detach().reshape(-1) for p in engine.module.parameters()])
        found[case] = {
            "broadcasts at the start": broadcasts,
            "collectives": traffic.calls,
            "bits": traffic.payload_bytes * 8 / flat.numel(),
            "same": is_same_everywhere(flat),
            "finite": bool(flat.isfinite().all()),
        }
    meter.detach()
    return found


class Engine:
    enable_backward_allreduce = True


def guards(ranks: DistributedContext) -> dict[str, Any]:
    """Gradients that are too long or non-finite, on one rank or on both, once they are not averaged any more."""
    weight = torch.nn.Parameter(torch.zeros(1024))
    optimizer = OneBitAdam([weight], lr=0.1, betas=(0.0, 0.9), freeze_step=1)
    optimizer.attach(Engine(), clipping=1.0)

    def step(gradient: torch.Tensor) -> dict[str, Any]:
        before = weight.detach().clone()
        weight.grad = gradient
        optimizer.step()
        return {
            "momentum": float(optimizer.momentum.norm()),
            "norm": float(optimizer._global_grad_norm),
            "moved": float((weight.detach() - before).norm()),
            "left out": optimizer.overflow,
            "steps": optimizer.step_count,
            "same": is_same_everywhere(weight.detach()),
        }

    torch.manual_seed(3)
    direction = torch.nn.functional.normalize(torch.randn(1024), dim=0)
    nothing = torch.full((1024,), float("nan"))
    found = {
        "short": step(0.5 * direction),
        "long on one rank": step((1000.0 if ranks.rank == 1 else 0.5) * direction),
        "no number on one rank": step(nothing if ranks.rank == 1 else 0.5 * direction),
        "no number anywhere": step(nothing),
        "short again": step(0.5 * direction),
    }
    ratio = float(optimizer.coherence.ratio)
    optimizer.load_rank_state(optimizer.compressed.state_dict())  # before the ratio was measured
    assert float(optimizer.coherence.ratio) == ratio
    return found


def steps_after_a_nan(ranks: DistributedContext) -> list[bool]:
    """Whether each step under PowerSGD was applied, the fourth with a NaN on one rank."""
    settings = ("communication.reducer=powersgd", "communication.powersgd_start_step=2")
    recipe = recipe_of(*settings)
    torch.manual_seed(0)
    engine = start_engine(YOLOv5("n", 3), recipe, ranks)
    strategy = build_strategy(engine, recipe)
    strategy.plan(warmup_steps=1, steps=100)
    applied = []
    for step in range(6):
        loss = sum(level.square().mean() for level in engine(torch.rand(2, 3, 64, 64)))
        engine.backward(loss * (float("nan") if step == 3 and ranks.rank == 1 else 1.0))
        strategy.reduce_gradients()
        engine.step()
        applied.append(bool(engine.was_step_applied()))
    return applied


def agreement(ranks: DistributedContext) -> dict[str, Any]:
    torch.manual_seed(0)
    model = YOLOv5("n", 3)
    check_replicas_equal(model, "step 1")
    said = []
    for change in ("the last bit", "two that changed places"):
        other = copy.deepcopy(model)
        if ranks.rank == 1:
            weight = dict(other.named_parameters())["model.3.conv.weight"]
            flat = weight.data.view(-1)
            if change == "the last bit":
                flat.view(torch.int32)[77] ^= 1
            else:
                flat[[5, 6]] = flat[[6, 5]]
        try:
            check_replicas_equal(other, "step 2")
            said.append("")
        except RanksDiverged as error:
            said.append(str(error))
    return {"said": said}


def main() -> None:
    options = worker_arguments().parse_args()
    ranks = init_distributed(recipe_of())
    found = {
        "compressed": compressed(ranks),
        "reducers": reducers(ranks),
        "agreement": agreement(ranks),
        "guards": guards(ranks),
        "one bit": one_bit(ranks),
    }
    if ranks.is_main:
        options.out.write_text(json.dumps(found))


main()
shutdown_distributed()
