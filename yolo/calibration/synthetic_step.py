"""The training step on a synthetic batch, under one strategy: what calibration and benchmarks time."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from yolo.calibration.muted_collectives import hand_back
from yolo.calibration.stopwatch import Stopwatch
from yolo.calibration.strategies import Strategy
from yolo.communication.strategy import SyncStrategy
from yolo.data.loader.samples import TrainingBatch
from yolo.model import YOLOv5
from yolo.model.loss import detection_loss
from yolo.recipe import Recipe, prepare
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
    """What is timed: a recipe with overrides, and a number of classes."""

    recipe: str
    overrides: tuple[str, ...]
    classes: int

    def under(self, strategy: Strategy, context: DistributedContext) -> Recipe:
        """The recipe under a strategy."""
        overrides = (*self.overrides, *strategy.overrides, "train.multi_scale=0")
        prepared = prepare(self.recipe, overrides, context.world_size, context.local_world_size)
        return prepared.resolved.recipe


def synthetic_targets(
    images: int, boxes_per_image: int, classes: int, generator: torch.Generator
) -> torch.Tensor:
    """Boxes around the centre of each image, as a batch's targets (images x boxes_per_image, 6)."""
    boxes = torch.rand(images * boxes_per_image, 4, generator=generator) * 0.4 + 0.3
    kinds = torch.randint(classes, (len(boxes), 1), generator=generator)
    owners = torch.arange(images).repeat_interleave(boxes_per_image)[:, None]
    return torch.cat([owners, kinds, boxes], dim=1)


class SyntheticTraining:
    """Takes `TrainStep`s on one synthetic batch, again and again, under one strategy; collective."""

    def __init__(
        self,
        strategy: Strategy,
        job: TimingJob,
        context: DistributedContext,
        is_muted: bool = False,
    ) -> None:
        """`is_muted`: collectives will send nothing (torch's DDP must know it from the start)."""
        self.strategy = strategy
        self.context = context
        self.recipe = recipe = job.under(strategy, context)
        images, size = recipe.train.micro_batch, recipe.model.image_size
        self.micro_steps = recipe.train.gradient_accumulation_steps
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
        self.train_step = TrainStep(self.state, loss, schedule, recipe, context, _Unobserved())
        generator = torch.Generator().manual_seed(1 + context.rank)
        pixels = torch.randint(
            0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator
        )
        targets = synthetic_targets(images, BOXES_PER_IMAGE, job.classes, generator)
        self.batch = [
            TrainingBatch(pixels.to(context.device), targets) for _ in range(self.micro_steps)
        ]

    @property
    def images(self) -> int:
        """Images per micro batch."""
        return len(self.batch[0].images)

    def step(self, observer: StepObserver | None = None) -> None:
        """Take one step; `observer` learns which part of it begins."""
        self.train_step.observer = observer or _Unobserved()
        result = self.train_step(self.batch)
        if result.is_local and self.strategy.exchanges and not self.state.strategy.steps_since_sync:
            self.state.guard.sync(result.step, False, self.context.device)

    def seconds_by_part(self, steps: int) -> dict[str, float]:
        """Mean seconds of forward, backward and update over some steps."""
        timer = StepTimer(self.context.device)
        for _ in range(steps):
            timer.begin(StepPart.FORWARD, 0)
            self.step(timer)
            timer.end()
        return {part: seconds / steps for part, seconds in timer.watch.seconds.items()}

    def unmetered_collectives(self) -> int:
        """Collectives per step that the traffic meter does not see."""
        return self.engine.collectives if isinstance(self.engine, DDPEngine) else 0


class _Unobserved:
    def begin(self, part: StepPart, step: int) -> None:
        pass


class StepTimer:
    """Sums up the seconds of each part of steps (`StepObserver`)."""

    def __init__(self, device: torch.device) -> None:
        self.watch = Stopwatch(device)
        self._part: StepPart | None = None

    def begin(self, part: StepPart, step: int) -> None:
        """Stop the part before, and start this one."""
        self.end()
        self._part = part
        self.watch.start()

    def end(self) -> None:
        """Stop the last part of a step."""
        if self._part is not None:
            self.watch.stop(self._part)
            self._part = None


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
