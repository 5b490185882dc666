"""Ranks that take a few steps of each recipe they are handed, rules unasked, and tell what could be seen.

The first rank connects to a test's listener, takes cases from it, and answers each: see `tests/recipe/rules/against_deepspeed/pair.py`.
"""

import contextlib
import hashlib
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection
from typing import Any
from unittest import mock

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.utils.timer import SynchronizedWallClockTimer

import yolo.training.engine.build
from tests.recipe.rules.against_deepspeed.case import Case, Observation
from tests.workers.arguments import worker_arguments
from tests.workers.several import forget
from yolo.communication.metering.meter import TrafficMeter
from yolo.communication.metering.traffic import Traffic
from yolo.model import YOLOv5
from yolo.recipe.deepspeed.config import _merged, deepspeed_config
from yolo.recipe.load.merge import load_recipe
from yolo.recipe.resolve.resolve import resolve
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.build import SkippedStepDetector, build_strategy, start_engine
from yolo.training.engine.distributed import (
    DistributedContext,
    all_gather_object,
    broadcast_object,
    init_distributed,
    shutdown_distributed,
)

CLASSES = 3
Timer = SynchronizedWallClockTimer.Timer
TIMEOUT_SECONDS = 15.0
"""Of a collective: some cases are there to show that ranks wait for each other for ever."""


def main() -> None:
    parser = worker_arguments()
    parser.add_argument("--listener", type=int)
    options = parser.parse_args()
    ranks = init_distributed(
        _recipe(Case((f"communication.timeout_seconds={TIMEOUT_SECONDS}",)), None)
    )
    meter = TrafficMeter().attach()
    test = Client(("127.0.0.1", options.listener)) if ranks.is_main else None
    for case in _cases(test, ranks):
        mine: Observation | str
        try:
            mine = _observed(case, ranks, meter)
        except Exception as error:
            traceback.print_exc(file=sys.stdout)
            mine = f"{type(error).__name__}: {error}"
        every = all_gather_object(ranks, mine)
        if test is not None:
            test.send(every)
        forget()
        meter.take()
    meter.detach()
    shutdown_distributed()


def _cases(test: Connection | None, ranks: DistributedContext) -> Iterator[Case]:
    while True:
        # The others wait in a collective, and no longer than its timeout: tests may have nothing to ask for a while.
        is_handed: bool = broadcast_object(
            ranks, test is not None and test.poll(TIMEOUT_SECONDS / 3)
        )
        if not is_handed:
            continue
        case: Case | None = broadcast_object(ranks, test.recv() if test is not None else None)
        if case is None:
            return
        yield case


def _recipe(case: Case, ranks: DistributedContext | None) -> Recipe:
    world_size = ranks.world_size if ranks else 1
    return resolve(load_recipe(case.recipe, case.overrides), world_size, world_size).recipe


@dataclass(slots=True)
class _Backward:
    """Traffic in the course of one step's backwards: `early` began before the last gradient was there."""

    meter: TrafficMeter
    whole: Traffic = field(default_factory=Traffic)
    early: Traffic = field(default_factory=Traffic)

    def watch(self, model: torch.nn.Module) -> None:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _: self._gradient())

    def _gradient(self) -> None:
        # A reducer's own hook on this gradient came first: what it began is early when another gradient follows.
        self.early = Traffic()
        self.early.add(self.whole)
        self.whole.add(self.meter.take())


def _observed(case: Case, ranks: DistributedContext, meter: TrafficMeter) -> Observation:
    recipe = _recipe(case, ranks)
    torch.manual_seed(0)
    model = YOLOv5(recipe.model.variant, CLASSES)
    as_written = mock.patch.object(
        yolo.training.engine.build,
        "deepspeed_config",
        lambda recipe: _merged(deepspeed_config(recipe), case.json),
    )
    with as_written:
        engine = start_engine(model, recipe, ranks)
    exchange = build_strategy(engine, recipe)
    exchange.plan(warmup_steps=1, steps=100)
    generator = torch.Generator().manual_seed(1 + ranks.rank)
    accumulation = recipe.train.gradient_accumulation_steps
    pixels = recipe.model.image_size
    watch = SkippedStepDetector(engine)
    backward = _Backward(meter)
    backward.watch(engine.module)
    taken, traffic = [], Traffic()
    meter.take()
    with (
        mock.patch.object(get_accelerator(), "synchronize") as synchronize,
        mock.patch.object(Timer, "elapsed", autospec=True, return_value=1.0) as elapsed,
    ):
        for step in range(case.steps):
            factor = case.factor(ranks.rank, step)
            backward.whole = Traffic()
            for _ in range(accumulation):
                images = torch.rand(
                    recipe.train.micro_batch, 3, pixels, pixels, generator=generator
                )
                loss = sum(level.float().square().mean() for level in engine(images))
                engine.backward(factor * loss)
                exchange.reduce_gradients()
                engine.step()
            exchange.after_step()
            taken.append(watch.was_step_applied())
            traffic = backward.whole
            traffic.add(meter.take())
        waits = synchronize.call_count + elapsed.call_count
    norm = engine.get_global_grad_norm()
    with _whole(engine, recipe.zero.stage) as parameters:
        flat = torch.cat([parameter.detach().float().reshape(-1) for parameter in parameters])
    return Observation(
        weights=hashlib.sha256(flat.numpy().tobytes()).hexdigest(),
        moved=_moved(recipe.model.variant, flat),
        is_finite=bool(flat.isfinite().all()),
        taken=taken,
        norm=None if norm is None else float(norm),
        scale=yolo.training.engine.build.loss_scale(engine),
        traffic={kind: (part.calls, part.payload_bytes) for kind, part in traffic.by_kind.items()},
        wire_bytes=traffic.wire_bytes,
        early={k: (part.calls, part.payload_bytes) for k, part in backward.early.by_kind.items()},
        waits_for_the_device=waits,
        kept_elements=sum(parameter.numel() for parameter in engine.module.parameters()),
        optimizer=type(engine.optimizer).__name__,
        basic_optimizer=type(engine.basic_optimizer).__name__,
    )


def _moved(variant: str, flat: torch.Tensor) -> float:
    torch.manual_seed(0)
    start = torch.cat([p.detach().reshape(-1) for p in YOLOv5(variant, CLASSES).parameters()])
    return float((flat - start).norm())


@contextlib.contextmanager
def _whole(engine: Any, stage: int) -> Iterator[list[torch.nn.Parameter]]:
    parameters = list(engine.module.parameters())
    if stage < 3:
        yield parameters
        return
    with deepspeed.zero.GatheredParameters(parameters):
        yield parameters


main()
