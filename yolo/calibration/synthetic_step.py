"""The training step on a synthetic batch, under one strategy: what calibration and benchmarks time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from yolo.calibration.muted_collectives import hand_back
from yolo.calibration.stopwatch import Stopwatch, Unwatched
from yolo.calibration.strategies import Strategy
from yolo.communication.strategy import SyncStrategy
from yolo.data.loader.samples import TrainingBatch
from yolo.model import YOLOv5
from yolo.model.loss import detection_loss
from yolo.recipe import PreparedRecipe, Recipe
from yolo.training.checkpointing.train_state import TrainState
from yolo.training.engine.build import build_strategy, parameter_groups, start_engine
from yolo.training.engine.distributed import DistributedContext
from yolo.training.engine.ema import ModelEMA
from yolo.training.loop.auto_precision import TORCH_DTYPES
from yolo.training.loop.lr_schedule import LRSchedule
from yolo.training.loop.step import StepObserver, StepPart, TrainStep
from yolo.training.resilience.anomaly_guard import StabilityGuard

BOXES_PER_IMAGE = 4
STEPS_PER_EPOCH = 10**4
"""More steps than are ever timed: a strategy that changes its phase with the epochs does not do so meanwhile."""


@dataclass(frozen=True, slots=True)
class TimingJob:
    """What is timed: a recipe, and a number of classes."""

    prepared: PreparedRecipe
    classes: int

    @property
    def recipe(self) -> Recipe:
        """As written."""
        return self.prepared.resolved.recipe

    def under(self, strategy: Strategy) -> Recipe:
        """The recipe under a strategy."""
        prepared = self.prepared.with_values(*strategy.overrides, "train.multi_scale=0")
        return prepared.resolved.recipe


def synthetic_batch(
    images: int, image_size: int, boxes_per_image: int, classes: int, seed: int
) -> TrainingBatch:
    """Noise in the loaders' memory format, with boxes around the centre of each image."""
    generator = torch.Generator().manual_seed(seed)
    shape = images, image_size, image_size, 3
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    boxes = torch.rand(images * boxes_per_image, 4, generator=generator) * 0.4 + 0.3
    kinds = torch.randint(classes, (len(boxes), 1), generator=generator)
    owners = torch.arange(images).repeat_interleave(boxes_per_image)[:, None]
    return TrainingBatch(pixels.permute(0, 3, 1, 2), torch.cat([owners, kinds, boxes], dim=1))


class SyntheticTraining:
    """Takes `TrainStep`s on one synthetic batch, again and again, under one strategy; collective."""

    def __init__(
        self,
        strategy: Strategy,
        job: TimingJob,
        context: DistributedContext,
        is_muted: bool = False,
        batch: Sequence[TrainingBatch] = (),
    ) -> None:
        """`is_muted`: collectives will send nothing (torch's DDP must know it from the start).

        `batch`: the micro batches of a step; by default, one on the device that is used for all.
        """
        self.strategy = strategy
        self.context = context
        self.recipe = recipe = job.under(strategy)
        torch.manual_seed(0)
        self.model = YOLOv5(recipe.model.variant, job.classes).to(context.device)
        loss = detection_loss(self.model, recipe)
        schedule = LRSchedule(recipe, STEPS_PER_EPOCH)
        self.engine: Any
        sync = SyncStrategy()
        if strategy.ddp_bucket_mb is not None:
            self.engine = DDPEngine(self.model, recipe, strategy.ddp_bucket_mb, is_muted)
        else:
            self.engine = start_engine(self.model, recipe, context)
            sync = build_strategy(self.engine, recipe)
            sync.plan(warmup_steps=1, steps=10**6)
        if not strategy.exchanges:
            self.engine.enable_backward_allreduce = False
            sync = NoSync()
        ema = ModelEMA(self.engine.module, recipe.train)
        self.state = TrainState(self.engine, sync, ema, StabilityGuard(recipe.stability, context))
        self.unwatched = Unwatched(context.device)
        self.train_step = TrainStep(self.state, loss, schedule, recipe, context, self.unwatched)
        if not batch:
            shape = recipe.train.micro_batch, recipe.model.image_size
            drawn = synthetic_batch(*shape, BOXES_PER_IMAGE, job.classes, 1 + context.data_rank)
            pixels = drawn.images.to(context.device)
            # One object each: a step knows its last micro batch by identity.
            micro_steps = range(recipe.train.gradient_accumulation_steps)
            batch = [TrainingBatch(pixels, drawn.targets) for _ in micro_steps]
        self.batch = batch

    def step(self, observer: StepObserver | None = None) -> None:
        """Take one step; `observer` learns which part of it begins."""
        self.train_step.observer = observer or self.unwatched
        result = self.train_step(self.batch)
        if result.is_local and self.strategy.exchanges and not self.state.strategy.steps_since_sync:
            self.state.guard.sync(result.step, False, self.context.device)

    def seconds_by_part(self, steps: int) -> dict[str, float]:
        """Mean seconds of forward, backward and update over some steps."""
        watch = Stopwatch(self.context.device)
        for _ in range(steps):
            watch.start()
            self.step(watch)
            watch.stop(StepPart.UPDATE)
        return {part: seconds / steps for part, seconds in watch.seconds.items()}


class NoSync(SyncStrategy):
    """Every rank trains by itself: computation without communication."""

    @property
    def is_local_step(self) -> bool:
        """Always."""
        return True


class DDPEngine:
    """torch's DistributedDataParallel with AdamW, behind those methods of DeepSpeed's engine that a step calls."""

    torch_autocast_z0_gradscaler = None

    def __init__(self, model: YOLOv5, recipe: Recipe, bucket_mb: float, is_muted: bool) -> None:
        self.module = model
        self.wrapped = nn.parallel.DistributedDataParallel(
            model, bucket_cap_mb=bucket_mb, broadcast_buffers=not is_muted
        )
        if is_muted:
            self.wrapped.register_comm_hook(None, hand_back)
        self.clipping = recipe.train.gradient_clipping
        self.optimizer = torch.optim.AdamW(parameter_groups(model), lr=recipe.optimizer.lr)
        self.dtype = TORCH_DTYPES[recipe.precision.dtype]
        self.accumulation = recipe.train.gradient_accumulation_steps
        self._micro_steps = 0

    def __call__(self, images: torch.Tensor) -> Any:
        with torch.autocast(
            images.device.type, self.dtype, enabled=self.dtype is not torch.float32
        ):
            return self.wrapped(images)

    def gradient_accumulation_steps(self) -> int:
        return self.accumulation

    def backward(self, loss: torch.Tensor) -> None:
        (loss / self.accumulation).backward()

    def step(self) -> None:
        self._micro_steps += 1
        if self._micro_steps % self.accumulation == 0:
            nn.utils.clip_grad_norm_(self.wrapped.parameters(), self.clipping)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def was_step_applied(self) -> bool:
        return True

    @property
    def collectives(self) -> int:
        """All-reduces of gradient buckets per step, and the broadcast of buffers."""
        data = self.wrapped._get_ddp_logging_data()
        buckets = str(data.get("rebuilt_bucket_sizes") or data["bucket_sizes"]).split(",")
        return len(buckets) + 1
