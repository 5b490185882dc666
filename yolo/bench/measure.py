"""What one rank does in the benchmark: the same training step under each strategy, timed and counted on the interface.

Started on every host by the deepspeed launcher; the first rank appends one JSON line a strategy to a file.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch

from yolo.bench.strategies import COMPUTE, Strategy, chosen
from yolo.communication.meter import Traffic, TrafficMeter
from yolo.model import YOLOv5
from yolo.model.loss import DetectionLoss, Normaliser
from yolo.recipe import Recipe, prepare
from yolo.training.engine import parameter_groups, start_engine, start_exchange
from yolo.training.ranks import Ranks, join, leave, world_size_from_launcher

RECIPE = "recipes/bccd.yaml"
"""Only its network and optimizer count here: images are made up."""
CLASSES = 3
BOXES_PER_IMAGE = 4
IMAGE_SIZES = (64, 96, 128, 160, 192, 224, 256, 320)
LEAST_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class Measured:
    """One strategy on one network."""

    strategy: str
    image_size: int
    step_seconds: float
    """Median over windows of `period` steps, each the mean over the ranks."""
    step_seconds_low: float
    """First quartile."""
    step_seconds_high: float
    """Third quartile."""
    wire_bytes_per_rank_per_step: float
    """Sent by this host's eth0: headers and acknowledgements included; mean over the ranks."""
    metered_bytes_per_rank_per_step: float
    """By our own meter; torch DDP's reducer goes past it."""
    collectives_per_step: float


class Trainer:
    """The same made-up batch again and again, under one strategy."""

    def __init__(self, strategy: Strategy, image_size: int, ranks: Ranks) -> None:
        self.strategy = strategy
        self.image_size = image_size
        self.ranks = ranks
        torch.manual_seed(0)
        model = YOLOv5("n", CLASSES)
        self.criterion = DetectionLoss(model.anchors, model.stride, CLASSES, image_size)
        recipe = _recipe(strategy, image_size, ranks.world_size)
        start = _start_engine if strategy.ddp_bucket_mb is None else _start_ddp
        started = start(model, recipe, ranks, strategy)
        self.forward, self.learn, self.steps_alone, self.collectives_beside = started
        generator = torch.Generator().manual_seed(1 + ranks.rank)
        self.images = torch.rand(1, 3, image_size, image_size, generator=generator)
        boxes = torch.rand(BOXES_PER_IMAGE, 4, generator=generator) * 0.4 + 0.3
        kinds = torch.randint(CLASSES, (BOXES_PER_IMAGE, 1), generator=generator)
        self.targets = torch.cat([torch.zeros_like(kinds), kinds, boxes], dim=1)

    def step(self) -> None:
        """One step as the training loop takes it."""
        assignment = self.criterion.assign(self.targets, self.images.shape)
        matches = assignment.matches.float()
        is_alone = self.steps_alone()
        exchange = None if is_alone else dist.all_reduce(matches, async_op=True)
        predictions = self.forward(self.images)
        if exchange is not None:
            exchange.wait()
        normaliser = Normaliser(matches, self.ranks.world_size, self.ranks.world_size)
        loss, _ = self.criterion(predictions, assignment, normaliser)
        self.learn(loss)


Started = tuple[
    Callable[..., Any], Callable[[torch.Tensor], None], Callable[[], bool], Callable[[], int]
]
"""Forward; backward and the optimizer's step; whether the next one is taken alone; collectives a step that the meter does
not see."""


def _start_engine(model: YOLOv5, recipe: Recipe, ranks: Ranks, strategy: Strategy) -> Started:
    engine = start_engine(model, recipe, ranks)
    exchange = start_exchange(engine, recipe)
    exchange.plan(warmup_steps=1, steps=10**6)
    if not strategy.exchanges:
        engine.enable_backward_allreduce = False

    def learn(loss: torch.Tensor) -> None:
        engine.backward(loss)
        exchange.finish_gradients()
        engine.step()
        exchange.step_taken()

    return engine, learn, lambda: exchange.steps_alone or not strategy.exchanges, lambda: 0


def _start_ddp(model: YOLOv5, recipe: Recipe, ranks: Ranks, strategy: Strategy) -> Started:
    """torch's DistributedDataParallel as it comes, but for the bucket's size."""
    assert strategy.ddp_bucket_mb is not None
    wrapped = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=strategy.ddp_bucket_mb)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=recipe.optimizer.lr)

    def learn(loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.train.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()

    def collectives() -> int:
        data = wrapped._get_ddp_logging_data()
        buckets = str(data.get("rebuilt_bucket_sizes") or data["bucket_sizes"]).split(",")
        return len(buckets) + 1  # and the buffers' broadcast

    return wrapped, learn, lambda: False, collectives


def _recipe(strategy: Strategy, image_size: int, world_size: int) -> Recipe:
    overrides = [
        *(f"train.global_batch={world_size}", f"cluster.nodes={world_size}"),
        *("cluster.processes_per_node=1", "cluster.threads_per_process=1"),
        *(f"model.image_size={image_size}", *strategy.overrides),
    ]
    return prepare(RECIPE, overrides, world_size, 1).resolved.recipe


def measure(strategy: Strategy, image_size: int, steps: int, ranks: Ranks) -> Measured:
    """Time `steps` steps, or as many windows of a strategy's period as hold them; collective."""
    trainer = Trainer(strategy, image_size, ranks)
    meter = TrafficMeter().attach()
    for _ in range(strategy.settle_steps):
        trainer.step()
    windows = max(LEAST_WINDOWS, -(-steps // strategy.period))
    dist.barrier()
    meter.take()
    before = _sent_bytes()
    seconds = []
    for _ in range(windows):
        started = time.perf_counter()
        for _ in range(strategy.period):
            trainer.step()
        seconds.append((time.perf_counter() - started) / strategy.period)
    traffic = meter.take()
    meter.detach()
    dist.barrier()
    sent = _sent_bytes() - before
    of_ranks: list[Any] = [None] * ranks.world_size
    torch.distributed.all_gather_object(of_ranks, (seconds, sent))
    beside = trainer.collectives_beside()
    del trainer
    gc.collect()  # an engine and its hooks hold each other
    return _summed_up(strategy, image_size, of_ranks, traffic, beside)


def _summed_up(
    strategy: Strategy, image_size: int, of_ranks: Sequence[Any], traffic: Traffic, beside: int
) -> Measured:
    windows = [statistics.mean(each) for each in zip(*(s for s, _ in of_ranks), strict=True)]
    steps = len(windows) * strategy.period
    low, middle, high = statistics.quantiles(windows, n=4, method="inclusive")
    return Measured(
        strategy=strategy.name,
        image_size=image_size,
        step_seconds=middle,
        step_seconds_low=low,
        step_seconds_high=high,
        wire_bytes_per_rank_per_step=statistics.mean(sent for _, sent in of_ranks) / steps,
        metered_bytes_per_rank_per_step=traffic.wire_bytes / steps,
        collectives_per_step=traffic.calls / steps + beside,
    )


def _fitting_size(target_seconds: float, ranks: Ranks) -> int:
    """The image size whose computing comes nearest to a time from below, or the smallest."""
    best = IMAGE_SIZES[0]
    for size in IMAGE_SIZES:
        if measure(COMPUTE, size, 6, ranks).step_seconds > target_seconds:
            break
        best = size
    return best


def _sent_bytes() -> int:
    return int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())


def main() -> None:
    """Measure the strategies asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--compute-seconds", type=float, help="choose the image size for it")
    parser.add_argument("--local_rank")
    options = parser.parse_args()
    ranks = join(_recipe(COMPUTE, IMAGE_SIZES[0], world_size_from_launcher()))
    size = options.image_size or _fitting_size(options.compute_seconds, ranks)
    # Computing alone is measured before and after: a machine that slows down meanwhile must not be taken for traffic.
    for strategy in (COMPUTE, *chosen(options.strategies), COMPUTE):
        measured = measure(strategy, size, options.steps, ranks)
        if ranks.is_first:
            with options.out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(measured)) + "\n")
    leave()


if __name__ == "__main__":
    main()
