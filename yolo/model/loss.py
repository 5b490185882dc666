"""YOLOv5's loss, normalised so that it does not matter how a global batch is cut into shards."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from yolo.architecture import ANCHORS_PER_LEVEL
from yolo.model.assignment import LevelMatches, match_level
from yolo.model.boxes import complete_iou
from yolo.model.head import at_least_fp32, box_shape, cell_offset

OBJECTNESS_BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}
"""By number of levels: weight of each one's objectness, from stride 8 on: the public YOLOv5's."""
GAINS_LEVELS = 3
"""For which the gains are stated; with more levels each one's share is less."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one micro batch's predictions are to find, known before the network has seen it."""

    levels: tuple[LevelMatches, ...]
    images: int
    """In this micro batch."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of cells on each level."""

    @property
    def matches(self) -> Tensor:
        """Number of matches on each level, (levels,) int64: to be added up over the micro batches and the ranks."""
        device = self.levels[0].image.device
        return torch.tensor([len(level) for level in self.levels], device=device)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Assignment":
        """The same assignment on another device."""
        levels = tuple(level.to(device, non_blocking) for level in self.levels)
        return Assignment(levels, self.images, self.grids)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """What a shard must know of the whole global batch."""

    matches: Tensor
    """Number of matches on each level, (levels,), in the whole global batch."""
    images: int
    """In the whole global batch."""
    shards: int
    """Micro batches the global batch is cut into: ranks times accumulation steps."""


@dataclass(frozen=True, slots=True)
class LossParts:
    """One shard's share of the logged loss, each a detached scalar: their sum over the shards is the global batch's.

    As the public YOLOv5 logs them: with the gains, without the factor of the batch.
    """

    box: Tensor
    obj: Tensor
    cls: Tensor

    def stacked(self) -> Tensor:
        """(3,): box, objectness, class."""
        return torch.stack((self.box, self.obj, self.cls))


class DetectionLoss:
    """CIoU of the boxes, cross-entropy of objectness and of classes, summed over the levels.

    A mean over one rank's matches would give a box among few more weight than a box among many, so that the gradient
    changed with the number of ranks and accumulation steps. Here every sum over a shard is divided by the *global*
    batch's count (its matches a level for box and class, its cells for objectness), which makes the sum over the shards
    what one process would have computed. Two factors follow: the images of the global batch, because the public YOLOv5
    multiplies its mean loss by the batch, and the number of shards, because DeepSpeed averages gradients over ranks and
    divides by the accumulation steps. `Assignment.matches` is known before the forward pass, so that the one small
    all-reduce it needs can travel meanwhile.

    Where shards have images of different sizes, each image has the same share of the objectness.
    """

    def __init__(
        self,
        anchors: Tensor,
        strides: Sequence[int],
        classes: int,
        image_size: int,
        *,
        box: float = 0.05,
        obj: float = 1.0,
        cls: float = 0.5,
        anchor_threshold: float = 4.0,
        label_smoothing: float = 0.0,
    ):
        """anchors (levels, 3, 2) and image_size in pixels; classes counts them, and strides are pixels per cell.

        box, obj and cls are the gains as the public code states them: for 3 levels, 80 classes and 640 pixels.
        """
        self.strides = tuple(strides)
        self.classes = classes
        self.anchors = anchors.detach().cpu() / torch.tensor(self.strides).view(-1, 1, 1)  # cells
        self.balance = OBJECTNESS_BALANCE[len(self.strides)]
        share = GAINS_LEVELS / len(self.strides)
        self.box_gain = box * share
        self.obj_gain = obj * share * (image_size / 640) ** 2
        self.cls_gain = cls * share * classes / 80
        self.anchor_threshold = anchor_threshold
        self.positive = 1 - label_smoothing / 2
        self.negative = label_smoothing / 2

    def assign(self, targets: Tensor, shape: Sequence[int]) -> Assignment:
        """Match a micro batch's boxes with cells and anchors; waits for the device, if the targets are on one.

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
    ) -> tuple[Tensor, LossParts]:
        """The loss to call backward on, and its parts; fp32 whatever the predictions' type and autocast.

        predictions: the network's raw logits, a level (B, 3, rows, columns, 5 + classes). Without any match box and
        class terms are sums over nothing: 0, and every output still has its (zero) gradient on every rank.
        """
        box, obj, cls = [], [], []
        with torch.autocast(predictions[0].device.type, enabled=False):
            counts = normaliser.matches.clamp(min=1)
            for index, raw in enumerate(predictions):
                expected = (assignment.images, ANCHORS_PER_LEVEL, *assignment.grids[index])
                if raw.shape[:4] != expected:
                    raise ValueError(f"predictions {tuple(raw.shape)}: assigned for {expected}")
                logits = at_least_fp32(raw)
                box_sum, obj_sum, cls_sum = self._level(logits, assignment.levels[index])
                cells = normaliser.images * logits[0, ..., 4].numel()
                box.append(box_sum / counts[index])
                obj.append(obj_sum * self.balance[index] / cells)
                cls.append(cls_sum / (counts[index] * self.classes))
            box_loss = self.box_gain * torch.stack(box).sum()
            obj_loss = self.obj_gain * torch.stack(obj).sum()
            cls_loss = self.cls_gain * torch.stack(cls).sum()
            total = (box_loss + obj_loss + cls_loss) * normaliser.images * normaliser.shards
        return total, LossParts(box_loss.detach(), obj_loss.detach(), cls_loss.detach())

    def _level(self, logits: Tensor, matches: LevelMatches) -> tuple[Tensor, Tensor, Tensor]:
        """Box, objectness and class: one level's sums over this shard's matches, cells and matches."""
        cell = (matches.image, matches.anchor, matches.row, matches.column)
        matched = logits[cell]  # (K, 5 + classes)
        sigmoid = matched[:, :4].sigmoid()
        centre = cell_offset(sigmoid[:, :2])
        size = box_shape(sigmoid[:, 2:], matches.anchor_shape.to(logits.dtype))
        boxes = torch.cat((centre, size), dim=-1)
        ciou = complete_iou(boxes, matches.box.to(logits.dtype))  # (K,)

        objectness = logits[..., 4]
        targets = _highest(objectness, cell, ciou.detach().clamp(min=0))
        return (
            (1 - ciou).sum(),
            binary_cross_entropy(objectness, targets, reduction="sum"),
            self._classes(matched[:, 5:], matches.category),
        )

    def _classes(self, logits: Tensor, category: Tensor) -> Tensor:
        """Summed over matches and classes; one class is no question, and objectness alone is its score."""
        if self.classes == 1:
            return logits.new_zeros(())
        targets = torch.full_like(logits, self.negative)
        targets[torch.arange(len(category), device=category.device), category] = self.positive
        return binary_cross_entropy(logits, targets, reduction="sum")

    def _check(self, targets: Tensor, images: int) -> None:
        if targets.ndim != 2 or targets.shape[1] != 6:
            raise ValueError(f"targets of shape {tuple(targets.shape)}: expected (M, 6)")
        for column, limit, what in ((0, images, "image"), (1, self.classes, "class")):
            if ((targets[:, column] < 0) | (targets[:, column] >= limit)).any():
                raise ValueError(f"a target has {what} index outside 0..{limit - 1}")


def _highest(like: Tensor, cell: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """0 everywhere but in the cells, which get the highest of their values.

    The public code lets the last of several boxes win, which on a GPU may be any; the highest does not depend on order.
    """
    image, anchor, row, column = cell
    _, anchors, rows, columns = like.shape
    flat = ((image * anchors + anchor) * rows + row) * columns + column
    targets = torch.zeros(like.numel(), dtype=like.dtype, device=like.device)
    return targets.scatter_reduce(0, flat, values, reduce="amax").view(like.shape)
