"""A training step on a made-up batch, under one strategy: what benchmarks and calibration time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import deepspeed.comm as dist
import torch
from torch import nn

from yolo.calibration.muted_collectives import hand_back
from yolo.calibration.stopwatch import Stopwatch
from yolo.calibration.strategies import Strategy
from yolo.model import YOLOv5
from yolo.model.loss import DetectionLoss, Normaliser
from yolo.recipe import Recipe, prepare
from yolo.training.engine.build import parameter_groups, start_engine, start_exchange
from yolo.training.engine.distributed import DistributedContext
from yolo.training.resilience.anomaly_guard import StabilityGuard

BOXES_PER_IMAGE = 4


@dataclass(frozen=True, slots=True)
class TimingJob:
    """What is trained: a recipe with overrides, and a number of classes."""

    recipe: str
    overrides: tuple[str, ...]
    classes: int

    def under(self, strategy: Strategy, ranks: DistributedContext) -> Recipe:
        """The recipe as a strategy has it."""
        overrides = (*self.overrides, *strategy.overrides)
        prepared = prepare(self.recipe, overrides, ranks.world_size, ranks.local_world_size)
        return prepared.resolved.recipe


def made_up_targets(
    images: int, boxes_per_image: int, classes: int, generator: torch.Generator
) -> torch.Tensor:
    """Boxes about the middle of each image, as a batch's targets (images x boxes_per_image, 6)."""
    boxes = torch.rand(images * boxes_per_image, 4, generator=generator) * 0.4 + 0.3
    kinds = torch.randint(classes, (len(boxes), 1), generator=generator)
    owners = torch.arange(images).repeat_interleave(boxes_per_image)[:, None]
    return torch.cat([owners, kinds, boxes], dim=1)


class SyntheticTraining:
    """The same made-up batch again and again, under one strategy."""

    def __init__(
        self, strategy: Strategy, job: TimingJob, ranks: DistributedContext, is_hushed: bool = False
    ) -> None:
        """`is_hushed` where collectives are to send next to nothing: those of torch's DDP need to be told when they are made."""
        self.strategy = strategy
        self.ranks = ranks
        self.recipe = job.under(strategy, ranks)
        self.guard = StabilityGuard(self.recipe.stability, ranks)
        images, micro_steps = (
            self.recipe.train.micro_batch,
            self.recipe.train.gradient_accumulation_steps,
        )
        self.micro_steps = micro_steps
        image_size = self.recipe.model.image_size
        torch.manual_seed(0)
        self.model = YOLOv5(self.recipe.model.variant, job.classes).to(ranks.device)
        self.criterion = DetectionLoss(
            self.model.anchors, self.model.stride, job.classes, image_size
        )
        self.learner = (
            _Engine(self, strategy.exchanges)
            if strategy.ddp_bucket_mb is None
            else _DDP(self, strategy.ddp_bucket_mb, is_hushed)
        )
        generator = torch.Generator().manual_seed(1 + ranks.rank)
        pictures = torch.rand(images, 3, image_size, image_size, generator=generator)
        self.images = pictures.to(ranks.device)
        self.targets = made_up_targets(images, BOXES_PER_IMAGE, job.classes, generator)

    def step(self, watch: Stopwatch | None = None) -> None:
        """One step as the training loop takes it."""
        ranks, device = self.ranks.world_size, self.ranks.device
        if watch:
            watch.start()
        assignment = self.criterion.assign(self.targets, self.images.shape)
        matches = assignment.matches.float().to(device) * self.micro_steps
        is_alone = self.learner.is_local_step()
        exchange = None if is_alone or ranks == 1 else dist.all_reduce(matches, async_op=True)
        assignment = assignment.to(device)
        for micro_step in range(self.micro_steps):
            predictions = self.learner.forward(self.images)
            if exchange is not None:
                exchange.wait()
                exchange = None
            shards = ranks * self.micro_steps
            normaliser = Normaliser(matches, len(self.images) * shards, shards)
            loss, parts = self.criterion(predictions, assignment, normaliser)
            if micro_step == self.micro_steps - 1:
                loss = loss * self.guard.nan_gate(parts.stacked().sum(), False, is_alone)
            if watch:
                watch.stop("forward")
            self.learner.backward(loss)
            if watch:
                watch.stop("backward")
            self.learner.micro_step_done()
        self.learner.step_done()
        if is_alone and self.learner.has_met():
            self.guard.sync(0, False, device)
        if watch:
            watch.stop("update")


class _Engine:
    """DeepSpeed with the recipe's exchange."""

    def __init__(self, trainer: SyntheticTraining, exchanges: bool) -> None:
        self.engine = start_engine(trainer.model, trainer.recipe, trainer.ranks)
        self.exchange = start_exchange(self.engine, trainer.recipe)
        self.exchange.plan(warmup_steps=1, steps=10**6)
        self.exchanges = exchanges
        if not exchanges:
            self.engine.enable_backward_allreduce = False
        self.forward: Callable[..., Any] = self.engine

    @property
    def optimizer(self) -> Any:
        return self.engine.optimizer

    def backward(self, loss: torch.Tensor) -> None:
        self.engine.backward(loss)

    def micro_step_done(self) -> None:
        self.exchange.finish_gradients()
        self.engine.step()

    def step_done(self) -> None:
        self.exchange.step_taken()

    def is_local_step(self) -> bool:
        """Whether the next step is taken without hearing of the other ranks."""
        return self.exchange.is_local_step or not self.exchanges

    def has_met(self) -> bool:
        """Whether ranks that step alone have just exchanged."""
        return self.exchanges and self.exchange.steps_since_sync == 0

    def collectives_beside(self) -> int:
        """Collectives a step that the traffic meter does not see."""
        return 0


class _DDP:
    """torch's DistributedDataParallel as it comes, but for the bucket's size."""

    def __init__(self, trainer: SyntheticTraining, bucket_mb: float, is_hushed: bool) -> None:
        self.wrapped = nn.parallel.DistributedDataParallel(
            trainer.model, bucket_cap_mb=bucket_mb, broadcast_buffers=not is_hushed
        )
        if is_hushed:
            self.wrapped.register_comm_hook(None, hand_back)
        self.clipping = trainer.recipe.train.gradient_clipping
        self.optimizer = torch.optim.AdamW(
            parameter_groups(trainer.model), lr=trainer.recipe.optimizer.lr
        )
        self.forward: Callable[..., Any] = self.wrapped

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def micro_step_done(self) -> None:
        pass

    def step_done(self) -> None:
        nn.utils.clip_grad_norm_(self.wrapped.parameters(), self.clipping)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def is_local_step(self) -> bool:
        return False

    def has_met(self) -> bool:
        return False

    def collectives_beside(self) -> int:
        data = self.wrapped._get_ddp_logging_data()
        buckets = str(data.get("rebuilt_bucket_sizes") or data["bucket_sizes"]).split(",")
        return len(buckets) + 1  # and the buffers' broadcast
