"""YOLOv5's loss, normalised so that its gradient does not depend on how a global batch is sharded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from yolo.architecture import ANCHORS_PER_LEVEL
from yolo.model.assignment import LevelMatches, match_level
from yolo.model.boxes import complete_iou
from yolo.model.head import at_least_fp32, box_shape, cell_offset
from yolo.model.network import YOLOv5
from yolo.recipe.schema.model import LossSection
from yolo.recipe.schema.recipe import Recipe

OBJECTNESS_BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}
"""By number of levels: the weight of each level's objectness, from stride 8 on: the public YOLOv5's."""
PUBLIC_CLS = 0.5
"""The public YOLOv5's `loss.cls`."""
MOST_CLASS_WEIGHT = 8.0
"""Of a match under `loss.cls: auto`, see `_level`; measured (docs/results.md)."""
GAINS_LEVELS = 3
"""Number of levels that the gains are stated for; with more levels each level's share is smaller."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The targets of one micro batch's predictions, known before the forward pass."""

    levels: tuple[LevelMatches, ...]
    images: int
    """In this micro batch."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of cells on each level."""
    stripes: int = 1
    """Ranks that share the images, each with as many columns of cells; 1: whole images."""

    @property
    def matches(self) -> Tensor:
        """Number of matches on each level, (levels,) int64; the caller sums it over micro batches and ranks."""
        device = self.levels[0].image.device
        return torch.tensor([len(level) for level in self.levels], device=device)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Assignment":
        """The same assignment on another device."""
        levels = tuple(level.to(device, non_blocking) for level in self.levels)
        return replace(self, levels=levels)

    def stripe(self, index: int, count: int) -> "Assignment":
        """The part of one of `count` ranks that share the images by columns: the matches of the cells that it computes."""
        if count == 1:
            return self
        grids = tuple((rows, columns // count) for rows, columns in self.grids)
        levels = tuple(
            level.within(index * columns, columns)
            for level, (_, columns) in zip(self.levels, grids, strict=True)
        )
        return replace(self, levels=levels, grids=grids, stripes=count)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Counts of the full global batch, which every shard divides by."""

    matches: Tensor
    """Number of matches on each level, (levels,)."""
    images: int
    shards: int
    """Losses that make up the global batch's: ranks times accumulation steps."""


class DetectionLoss:
    """CIoU of the boxes plus cross-entropy of objectness and classes, summed over the levels.

    With a mean over one rank's matches, a box among few would weigh more than a box among many, and the gradient would
    depend on the number of ranks and accumulation steps. Here each sum over a shard is divided by the *global* batch's
    count (matches per level for box and class, cells for objectness). The sum over the shards is then what one process
    would compute. Two factors follow: the images of the global batch, because the public YOLOv5 multiplies its mean
    loss by the batch size; and the number of shards, because DeepSpeed averages gradients over ranks and divides by the
    accumulation steps. `Assignment.matches` is known before the forward pass, so its small all-reduce can overlap with
    it.

    If shards have images of different sizes, each image has the same share of the objectness.
    """

    def __init__(
        self,
        anchors: Tensor,
        strides: Sequence[int],
        classes: int,
        image_size: int,
        loss: LossSection = LossSection(),  # noqa: B008  frozen
        anchor_threshold: float = 4.0,
    ):
        """anchors (levels, 3, 2) and image_size are in pixels, strides in pixels per cell."""
        self.strides = tuple(strides)
        self.classes = classes
        self.anchors = anchors.detach().cpu() / torch.tensor(self.strides).view(-1, 1, 1)  # cells
        self.balance = OBJECTNESS_BALANCE[len(self.strides)]
        share = GAINS_LEVELS / len(self.strides)
        self.box_gain = loss.box * share
        self.obj_gain = loss.obj * share * (image_size / 640) ** 2
        cls, most = (PUBLIC_CLS, MOST_CLASS_WEIGHT) if loss.cls == "auto" else (loss.cls, 1.0)
        self.cls_gain = cls * share * classes / 80
        self.unknown_class = most - 1
        self.anchor_threshold = anchor_threshold
        self.positive = 1 - loss.label_smoothing / 2
        self.negative = loss.label_smoothing / 2

    def assign(self, targets: Tensor, shape: Sequence[int]) -> Assignment:
        """Match a micro batch's boxes with cells and anchors; synchronises with the device if the targets are on one.

        targets (M, 6): image index in the micro batch, class, centre x, centre y, width, height, the last four in 0..1.
        shape: of the images, (B, 3, H, W). ValueError for an image or class index out of range.
        """
        images, _, height, width = shape
        self._check(targets, images)
        grids = tuple((height // stride, width // stride) for stride in self.strides)
        levels = tuple(
            match_level(targets, anchors, grid, self.anchor_threshold)
            for anchors, grid in zip(self.anchors, grids, strict=True)
        )
        return Assignment(levels, images, grids)

    def __call__(
        self, predictions: Sequence[Tensor], assignment: Assignment, normaliser: Normaliser
    ) -> tuple[Tensor, Tensor]:
        """The loss to call backward on, and its parts (3,); in fp32 whatever the predictions' type and autocast.

        The parts box, obj and cls are this shard's share of the logged loss, detached: their sums over the shards are the
        global batch's, as the public YOLOv5 logs them, with the gains and without the factor of the batch size. What
        `loss.cls: auto` adds for some matches is not in them, so that runs can be compared.

        predictions: raw logits, one tensor per level (B, 3, rows, columns, 5 + classes). Without matches the box and
        class terms are empty sums, 0, and every output still has a (zero) gradient on every rank.
        """
        box, obj, cls, unknown = [], [], [], []
        with torch.autocast(predictions[0].device.type, enabled=False):
            counts = normaliser.matches.clamp(min=1)
            for index, raw in enumerate(predictions):
                expected = (assignment.images, ANCHORS_PER_LEVEL, *assignment.grids[index])
                if raw.shape[:4] != expected:
                    raise ValueError(f"predictions {tuple(raw.shape)}: assigned for {expected}")
                logits = at_least_fp32(raw)
                sums = self._level(logits, assignment.levels[index])
                box_sum, obj_sum, cls_sum, unknown_sum = sums
                cells = normaliser.images * logits[0, ..., 4].numel() * assignment.stripes
                box.append(box_sum / counts[index])
                obj.append(obj_sum * self.balance[index] / cells)
                cls.append(cls_sum / (counts[index] * self.classes))
                unknown.append(unknown_sum / (counts[index] * self.classes))
            box_loss = self.box_gain * torch.stack(box).sum()
            obj_loss = self.obj_gain * torch.stack(obj).sum()
            cls_loss = self.cls_gain * torch.stack(cls).sum()
            total = box_loss + obj_loss + cls_loss + self.cls_gain * torch.stack(unknown).sum()
            total = total * normaliser.images * normaliser.shards
        return total, torch.stack((box_loss, obj_loss, cls_loss)).detach()

    def _level(self, logits: Tensor, matches: LevelMatches) -> tuple[Tensor, ...]:
        """One level's sums: box over this shard's matches, objectness over its cells, class over its matches.

        The fourth is what `loss.cls: auto` adds to the class loss of some matches.
        """
        cell = (matches.image, matches.anchor, matches.row, matches.column)
        matched = logits[cell]  # (K, 5 + classes)
        sigmoid = matched[:, :4].sigmoid()
        centre = cell_offset(sigmoid[:, :2])
        size = box_shape(sigmoid[:, 2:], matches.anchor_shape.to(logits.dtype))
        boxes = torch.cat((centre, size), dim=-1)
        ciou = complete_iou(boxes, matches.box.to(logits.dtype))  # (K,)

        objectness = logits[..., 4]
        targets = _scatter_max(objectness, cell, ciou.detach().clamp(min=0))
        obj_sum = binary_cross_entropy(objectness, targets, reduction="sum")
        no_sum = logits.new_zeros(())
        if self.classes == 1:  # its score is the objectness
            return (1 - ciou).sum(), obj_sum, no_sum, no_sum
        targets = torch.full_like(matched[:, 5:], self.negative)
        targets.scatter_(1, matches.category[:, None], self.positive)
        cls = binary_cross_entropy(matched[:, 5:], targets, reduction="none")
        if self.unknown_class == 0:
            return (1 - ciou).sum(), obj_sum, cls.sum(), no_sum
        # A box that the network finds, but does not classify yet, counts most. With the public YOLOv5's gain a network learns
        # classes only in a long run, and a higher one for all boxes takes the steps that boxes need.
        known = matched[:, 5:].detach().sigmoid().gather(1, matches.category[:, None])
        found = ciou.detach().clamp(min=0)[:, None]
        weights = self.unknown_class * found.square() * (1 - known)
        return (1 - ciou).sum(), obj_sum, cls.sum(), (cls * weights).sum()

    def _check(self, targets: Tensor, images: int) -> None:
        if targets.ndim != 2 or targets.shape[1] != 6:
            raise ValueError(f"targets of shape {tuple(targets.shape)}: expected (M, 6)")
        for column, limit, what in ((0, images, "image"), (1, self.classes, "class")):
            if ((targets[:, column] < 0) | (targets[:, column] >= limit)).any():
                raise ValueError(f"a target has {what} index outside 0..{limit - 1}")


def detection_loss(model: YOLOv5, recipe: Recipe) -> DetectionLoss:
    """A recipe's loss. `model` is the plain network: a wrapped or sharded one no longer has its anchors."""
    size, threshold = recipe.model.image_size, recipe.model.anchor_threshold
    return DetectionLoss(model.anchors, model.stride, model.classes, size, recipe.loss, threshold)


def _scatter_max(like: Tensor, cell: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """Each cell gets the highest of its values; the rest is 0.

    In the public code the last of several boxes wins, on a GPU any of them; the maximum does not depend on the order.
    """
    image, anchor, row, column = cell
    _, anchors, rows, columns = like.shape
    flat = ((image * anchors + anchor) * rows + row) * columns + column
    targets = torch.zeros(like.numel(), dtype=like.dtype, device=like.device)
    return targets.scatter_reduce(0, flat, values, reduce="amax").view(like.shape)
