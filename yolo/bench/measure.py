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

from yolo.bench.strategies import COMPUTE, Strategy, Workload, chosen
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
WORKLOADS = (
    *((1, size) for size in (64, 96, 128, 160, 192, 224, 256, 320, 448, 640)),
    *((images, 640) for images in (2, 3, 4, 6, 8, 12, 16)),
)
"""Images a rank and their size in pixels, each taking longer to compute than the one before."""
LEAST_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class Measured:
    """One strategy on one network."""

    strategy: str
    images: int
    """A rank and step."""
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

    def __init__(self, strategy: Strategy, workload: Workload, ranks: Ranks) -> None:
        images, image_size = workload
        self.strategy = strategy
        self.ranks = ranks
        torch.manual_seed(0)
        model = YOLOv5("n", CLASSES)
        self.criterion = DetectionLoss(model.anchors, model.stride, CLASSES, image_size)
        recipe = _recipe(strategy, workload, ranks.world_size)
        start = _start_engine if strategy.ddp_bucket_mb is None else _start_ddp
        started = start(model, recipe, ranks, strategy)
        self.forward, self.learn, self.steps_alone, self.collectives_beside = started
        generator = torch.Generator().manual_seed(1 + ranks.rank)
        self.images = torch.rand(images, 3, image_size, image_size, generator=generator)
        boxes = torch.rand(images * BOXES_PER_IMAGE, 4, generator=generator) * 0.4 + 0.3
        kinds = torch.randint(CLASSES, (len(boxes), 1), generator=generator)
        owners = torch.arange(images).repeat_interleave(BOXES_PER_IMAGE)[:, None]
        self.targets = torch.cat([owners, kinds, boxes], dim=1)

    def step(self) -> None:
        """One step as the training loop takes it."""
        assignment = self.criterion.assign(self.targets, self.images.shape)
        matches = assignment.matches.float()
        is_alone = self.steps_alone()
        exchange = None if is_alone else dist.all_reduce(matches, async_op=True)
        predictions = self.forward(self.images)
        if exchange is not None:
            exchange.wait()
        ranks = self.ranks.world_size
        normaliser = Normaliser(matches, len(self.images) * ranks, ranks)
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


def _recipe(strategy: Strategy, workload: Workload, world_size: int) -> Recipe:
    images, image_size = workload
    overrides = [
        *(f"train.global_batch={images * world_size}", f"train.micro_batch={images}"),
        *(f"model.image_size={image_size}", f"cluster.nodes={world_size}"),
        *("cluster.processes_per_node=1", "cluster.threads_per_process=1"),
        *strategy.overrides,
    ]
    return prepare(RECIPE, overrides, world_size, 1).resolved.recipe


def measure(strategy: Strategy, workload: Workload, steps: int, ranks: Ranks) -> Measured:
    """Time `steps` steps, or as many windows of a strategy's period as hold them; collective."""
    trainer = Trainer(strategy, workload, ranks)
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
    return _summed_up(strategy, workload, of_ranks, traffic, beside)


def _summed_up(
    strategy: Strategy, workload: Workload, of_ranks: Sequence[Any], traffic: Traffic, beside: int
) -> Measured:
    windows = [statistics.mean(each) for each in zip(*(s for s, _ in of_ranks), strict=True)]
    steps = len(windows) * strategy.period
    low, middle, high = statistics.quantiles(windows, n=4, method="inclusive")
    return Measured(
        strategy=strategy.name,
        images=workload[0],
        image_size=workload[1],
        step_seconds=middle,
        step_seconds_low=low,
        step_seconds_high=high,
        wire_bytes_per_rank_per_step=statistics.mean(sent for _, sent in of_ranks) / steps,
        metered_bytes_per_rank_per_step=traffic.wire_bytes / steps,
        collectives_per_step=traffic.calls / steps + beside,
    )


def _fitting(target_seconds: float, ranks: Ranks) -> Workload:
    """The workload whose computing comes nearest to a time from below, or the smallest."""
    best = WORKLOADS[0]
    for workload in WORKLOADS:
        if measure(COMPUTE, workload, 6, ranks).step_seconds > target_seconds:
            break
        best = workload
    return best


def _sent_bytes() -> int:
    return int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())


def main() -> None:
    """Measure the strategies asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--workload", type=int, nargs=2, metavar=("IMAGES", "PIXELS"))
    parser.add_argument("--compute-seconds", type=float, help="choose the workload for it")
    parser.add_argument("--local_rank")
    options = parser.parse_args()
    ranks = join(_recipe(COMPUTE, WORKLOADS[0], world_size_from_launcher()))
    asked = options.workload
    workload = (asked[0], asked[1]) if asked else _fitting(options.compute_seconds, ranks)
    # Computing alone is measured before and after: a machine that slows down meanwhile must not be taken for traffic.
    for strategy in (COMPUTE, *chosen(options.strategies), COMPUTE):
        measured = measure(strategy, workload, options.steps, ranks)
        if ranks.is_first:
            with options.out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(measured)) + "\n")
    leave()


if __name__ == "__main__":
    main()
