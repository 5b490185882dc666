"""The baseline's training step, loop and evaluation."""

import math
import time
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from yolo.architecture import Anchors
from yolo.bench.baseline.data import PlainSamples, PlainSquares, collate_batch, plain_loader
from yolo.bench.baseline.evaluation import coco_figures, greedy_suppression
from yolo.calibration.stopwatch import Stopwatch
from yolo.data.open import load_split
from yolo.errors import BenchError
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.model import YOLOv5
from yolo.model.loss import Normaliser, detection_loss
from yolo.recipe.deepspeed.config import deepspeed_config
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.build import parameter_groups
from yolo.training.loop.datasets import chosen_anchors
from yolo.training.loop.lr_schedule import LRSchedule

OPTIMIZERS = {"AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}
OPTIMIZER_SETTINGS = ("lr", "betas", "eps", "weight_decay", "momentum", "nesterov")


class PlainStep:
    """Forward, loss, backward, optimizer and weight average in fp32, without overlap."""

    def __init__(
        self, recipe: Recipe, classes: int, anchors: Anchors, device: torch.device
    ) -> None:
        """Raises BenchError for an optimizer that torch does not have."""
        if recipe.optimizer.type not in OPTIMIZERS:
            raise BenchError(
                f"optimizer.type {recipe.optimizer.type}: the baseline has {', '.join(OPTIMIZERS)}"
            )
        self.recipe = recipe
        self.device = device
        self.model = YOLOv5(recipe.model.variant, classes, anchors).to(device)
        self.average = deepcopy(self.model).eval()
        self.updates = 0
        self.criterion = detection_loss(self.model, recipe)
        params = deepspeed_config(recipe)["optimizer"]["params"]
        settings = {name: params[name] for name in OPTIMIZER_SETTINGS if name in params}
        self.optimizer = OPTIMIZERS[recipe.optimizer.type](parameter_groups(self.model), **settings)

    def __call__(self, images: Tensor, targets: Tensor, watch: Stopwatch) -> float:
        """Take a step on images (B, 3, S, S) uint8 and targets (M, 6); returns the loss."""
        self.model.train()
        pixels = images.to(self.device).float() / 255
        assignment = self.criterion.assign(targets, pixels.shape).to(self.device)
        predictions = self.model(pixels)
        normaliser = Normaliser(assignment.matches.float(), len(images), shards=1)
        loss, _ = self.criterion(predictions, assignment, normaliser)
        watch.stop("forward and loss")
        self.optimizer.zero_grad()
        loss.backward()
        watch.stop("backward")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.train.gradient_clipping)
        self.optimizer.step()
        self._update_average()
        value = float(loss)
        watch.stop("optimizer and average")
        return value

    @torch.no_grad()
    def _update_average(self) -> None:
        self.updates += 1
        train = self.recipe.train
        steps = self.updates * train.ema_steps_per_step
        decay = train.ema_decay * (1 - math.exp(-steps / train.ema_ramp_steps))
        decay **= train.ema_steps_per_step
        current = self.model.state_dict()
        for name, value in self.average.state_dict().items():
            if value.dtype.is_floating_point:
                value *= decay
                value += (1 - decay) * current[name]


@dataclass(slots=True)
class PlainRun:
    """The result of a training run of the baseline."""

    ap: float = 0.0
    ap50: float = 0.0
    images_per_second: float = 0.0
    """Over the training steps only, waiting for images included."""
    wall_seconds: float = 0.0
    """From the first step to the last evaluation."""
    evaluation_seconds: float = 0.0
    steps: int = 0
    images: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Summed over all steps, by part."""


def train_plainly(recipe: Recipe, device: torch.device) -> PlainRun:
    """Train a recipe's epochs in this process; evaluate as often as the recipe says."""
    train, val = load_split(recipe.data, "train"), load_split(recipe.data, "val")
    anchors, _ = chosen_anchors(recipe, train)
    epochs = recipe.train.epochs
    torch.manual_seed(recipe.train.seed)
    step = PlainStep(recipe, len(train.class_names), anchors, device)
    samples = PlainSamples(train.records, recipe)
    loader = plain_loader(samples, recipe, collate_batch, shuffle=True)
    squares = PlainSquares(val.records, recipe)
    truth = GroundTruth.of(val)
    schedule = LRSchedule(recipe, len(loader))
    watch = Stopwatch(device)
    run = PlainRun()
    begun = time.perf_counter()
    for epoch in range(epochs):
        samples.has_mosaic = epoch < epochs - recipe.data.augmentation.mosaic_off_epochs
        watch.start()
        for images, targets in loader:
            watch.stop("waiting for images")
            schedule.apply(step.optimizer.param_groups, run.steps)
            step(images, targets, watch)
            run.steps += 1
            run.images += len(images)
        if (epoch + 1) % recipe.evaluation.every_epochs == 0 or epoch + 1 == epochs:
            evaluation_began = time.perf_counter()
            run.ap, run.ap50 = _evaluate(step.average, squares, truth, recipe)
            run.evaluation_seconds += time.perf_counter() - evaluation_began
    run.wall_seconds = time.perf_counter() - begun
    run.seconds = dict(watch.seconds)
    run.images_per_second = run.images / sum(watch.seconds.values())
    return run


def _evaluate(
    model: YOLOv5, squares: PlainSquares, truth: GroundTruth, recipe: Recipe
) -> tuple[float, float]:
    """Evaluate; returns AP and AP50."""
    loader = plain_loader(squares, recipe, list)
    settings = recipe.evaluation
    limits = settings.confidence, settings.iou, settings.max_detections
    device = next(model.parameters()).device
    found: dict[int, Detections] = {}
    for images in loader:
        pixels = torch.stack([image for image, *_ in images]).to(device).float() / 255
        with torch.no_grad():
            predictions = model(pixels).cpu().numpy()
        for (_, padding, scale, record), rows in zip(images, predictions, strict=True):
            kept = greedy_suppression(rows, *limits)
            most = [record.width, record.height] * 2
            corners = ((kept[:, :4] - [*padding, *padding]) / scale).clip(0, most)
            number = record.image_id
            found[number] = Detections(number, corners, kept[:, 4], kept[:, 5].astype(int))
    ap, ap50, *_ = coco_figures(truth, [found[image.image_id] for image in truth.images])
    return float(ap), float(ap50)
