import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from yolo.architecture import COCO_ANCHORS, COCO_ANCHORS_P6, Anchors
from yolo.model import YOLOv5
from yolo.model.loss import Assignment, DetectionLoss, Normaliser
from yolo.recipe.schema.model import LossSection

STRIDES = (8, 16, 32)
HEIGHT, WIDTH, CLASSES = 64, 96, 3
ANCHORS = torch.tensor(COCO_ANCHORS)
# image, class, centre x, centre y, width, height; the last two share cells and anchors, image 1 and 4 to 7 have no box
TARGETS = torch.tensor(
    [
        [0, 0, 0.31, 0.42, 0.20, 0.30],
        [0, 2, 0.70, 0.55, 0.90, 0.80],
        [2, 1, 0.11, 0.93, 0.05, 0.12],
        [3, 1, 0.52, 0.48, 0.40, 0.45],
        [3, 2, 0.53, 0.49, 0.35, 0.50],
    ],
    dtype=torch.float64,
)


def _criterion(classes: int = CLASSES, label_smoothing: float = 0.1) -> DetectionLoss:
    return DetectionLoss(
        ANCHORS, STRIDES, classes, 320, LossSection(label_smoothing=label_smoothing)
    )


def _predictions(images: int, classes: int = CLASSES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(images, 3, HEIGHT // s, WIDTH // s, 5 + classes) for s in STRIDES]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def _assign(criterion: DetectionLoss, targets: Tensor, images: int) -> Assignment:
    return criterion.assign(targets, (images, 3, HEIGHT, WIDTH))


def _whole(
    criterion: DetectionLoss, predictions: list[Tensor], targets: Tensor
) -> tuple[Tensor, Tensor]:
    images = len(predictions[0])
    assignment = _assign(criterion, targets, images)
    normaliser = Normaliser(assignment.matches, images, shards=1)
    return criterion(predictions, assignment, normaliser)


def _gradients(predictions: list[Tensor]) -> list[Tensor]:
    gradients = [level.grad for level in predictions]
    assert all(gradient is not None for gradient in gradients)
    return [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("image_of_all_boxes", [None, 6], ids=["spread", "all on one rank"])
def test_the_gradient_does_not_depend_on_how_the_global_batch_is_cut(
    image_of_all_boxes: int | None,
) -> None:
    criterion, targets = _criterion(), TARGETS.clone()
    if image_of_all_boxes is not None:
        targets[:, 0] = (
            image_of_all_boxes  # the first rank has no box in either of its micro batches
        )
    together = _predictions(8)
    total, parts = _whole(criterion, together, targets)
    total.backward()

    apart = _predictions(8)
    ranks, accumulation = 2, 2
    shards = []
    for first in range(0, 8, 2):
        is_here = (targets[:, 0] >= first) & (targets[:, 0] < first + 2)
        own = targets[is_here] - torch.tensor([first, 0, 0, 0, 0, 0])
        shards.append(([level[first : first + 2] for level in apart], _assign(criterion, own, 2)))
    matches = torch.stack([assignment.matches for _, assignment in shards]).sum(0)
    assert any(assignment.matches.sum() == 0 for _, assignment in shards)
    losses = [
        criterion(predictions, assignment, Normaliser(matches, 8, ranks * accumulation))
        for predictions, assignment in shards
    ]
    average = torch.stack([loss for loss, _ in losses]).mean()  # what DeepSpeed does with gradients
    average.backward()

    torch.testing.assert_close(average, total, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(_gradients(apart), _gradients(together), rtol=1e-10, atol=1e-14)
    summed = torch.stack([shard_parts for _, shard_parts in losses]).sum(0)
    torch.testing.assert_close(summed, parts, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cls", ["auto", 0.5])
@pytest.mark.parametrize("anchors", [COCO_ANCHORS, COCO_ANCHORS_P6], ids=["P5", "P6"])
def test_one_shard_equals_a_slow_textbook_loss(
    anchors: Anchors, cls: Literal["auto"] | float
) -> None:
    strides = [8 * 2**level for level in range(len(anchors))]
    height, width = (side * strides[-1] // 32 for side in (HEIGHT, WIDTH))
    generator = torch.Generator().manual_seed(3)
    levels = [
        torch.randn(
            (4, 3, height // stride, width // stride, 5 + CLASSES),
            generator=generator,
            dtype=torch.float64,
        )
        for stride in strides
    ]
    fast, slow = ([level.clone().requires_grad_() for level in levels] for _ in range(2))
    section = LossSection(cls=cls, label_smoothing=0.1)
    criterion = DetectionLoss(torch.tensor(anchors), strides, CLASSES, 320, section)
    assignment = criterion.assign(TARGETS, (4, 3, height, width))
    assert (assignment.matches > 0).sum() >= 3
    total, parts = criterion(fast, assignment, Normaliser(assignment.matches, 4, shards=1))
    total.backward()
    most = 8.0 if cls == "auto" else 1.0
    expected = torch.stack(_slow_loss(slow, TARGETS, anchors, 0.1, 320, most))
    (expected.sum() * 4).backward()
    logged = torch.stack(_slow_loss(levels, TARGETS, anchors, 0.1, 320, 1.0))
    torch.testing.assert_close(parts, logged)
    torch.testing.assert_close(total, expected.sum() * 4)
    torch.testing.assert_close(_gradients(fast), _gradients(slow), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("classes", [2, 6, 80])
def test_a_box_found_but_not_classified_counts_most(classes: int) -> None:
    def class_loss(cls: Literal["auto"] | float, found: bool, score: float) -> float:
        """What is minimised, of one image with one box, predicted exactly or not, whose class has this score."""
        section = LossSection(cls=cls)
        criterion = DetectionLoss(ANCHORS, STRIDES, classes, 320, section)
        side = ANCHORS[0, 1] / 64  # of an anchor, in an image of 64 pixels
        target = torch.tensor([[0, 0, 0.5625, 0.5625, float(side[0]), float(side[1])]])
        assignment = criterion.assign(target, (1, 3, 64, 64))
        predictions = [torch.zeros(1, 3, 64 // s, 64 // s, 5 + classes) for s in STRIDES]
        for level in predictions:
            level[..., 5] = math.log(score / (1 - score))
            level[..., 2:4] = 0.0 if found else -9.0
        total, parts = criterion(predictions, assignment, Normaliser(assignment.matches, 1, 1))
        return float(total - parts[0] - parts[1])

    ratios = {
        (found, score): class_loss("auto", found, score) / class_loss(0.5, found, score)
        for found in (True, False)
        for score in (0.001, 0.999)
    }
    assert ratios[True, 0.999] == pytest.approx(1, abs=0.01)
    assert ratios[False, 0.001] == pytest.approx(1, abs=0.01)
    assert 2 < ratios[True, 0.001] <= 8


def test_the_order_of_the_boxes_does_not_change_the_objectness_targets() -> None:
    forwards = _whole(_criterion(), _predictions(4), TARGETS)[1][1]
    backwards = _whole(_criterion(), _predictions(4), TARGETS.flip(0))[1][1]
    assert forwards.item() == backwards.item()


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("has_boxes", [True, False], ids=["boxes", "no boxes"])
def test_every_parameter_gets_a_gradient(classes: int, has_boxes: bool) -> None:
    torch.manual_seed(0)
    network = YOLOv5("n", classes)
    criterion = _criterion(classes)
    targets = TARGETS[:1] if has_boxes else TARGETS[:0]
    assignment = _assign(criterion, targets.float(), 1)
    normaliser = Normaliser(assignment.matches, 1, shards=1)
    total, _ = criterion(network(torch.rand(1, 3, HEIGHT, WIDTH)), assignment, normaliser)
    total.backward()
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_without_any_box_only_objectness_is_left() -> None:
    total, parts = _whole(_criterion(), _predictions(2), TARGETS[:0])
    box, obj, cls = parts
    assert (box.item(), cls.item()) == (0, 0)
    torch.testing.assert_close(total, obj * 2)


def test_one_class_has_no_class_loss() -> None:
    targets = TARGETS.clone()
    targets[:, 1] = 0
    _, parts = _whole(_criterion(classes=1), _predictions(4, classes=1), targets)
    assert parts[2].item() == 0
    assert parts[0].item() > 0


def test_the_loss_is_computed_in_fp32_under_autocast() -> None:
    criterion = _criterion()
    half = [level.detach().bfloat16() for level in _predictions(4)]
    expected, _ = _whole(criterion, [level.float() for level in half], TARGETS.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, parts = _whole(criterion, half, TARGETS.float())
    assert total.dtype == parts.dtype == torch.float32
    assert total.item() == expected.item()


def test_the_logged_parts_are_detached() -> None:
    total, parts = _whole(_criterion(), _predictions(4), TARGETS)
    assert total.requires_grad
    assert not parts.requires_grad


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 4, r"image index outside 0\.\.3"),
        (1, 3, r"class index outside 0\.\.2"),
        (1, -1, "class"),
    ],
)
def test_an_index_out_of_range_is_refused(column: int, value: int, message: str) -> None:
    targets = TARGETS.clone()
    targets[0, column] = value
    with pytest.raises(ValueError, match=message):
        _assign(_criterion(), targets, 4)


def test_predictions_of_another_size_than_assigned_are_refused() -> None:
    criterion = _criterion()
    assignment = criterion.assign(TARGETS, (4, 3, WIDTH, HEIGHT))
    with pytest.raises(ValueError, match="assigned for"):
        criterion(_predictions(4), assignment, Normaliser(assignment.matches, 4, 1))


def _slow_loss(
    predictions: list[Tensor],
    targets: Tensor,
    anchors: Anchors,
    label_smoothing: float,
    image_size: int,
    most_class_weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Box by box and cell by cell, as the facts of the public code state it; its class weight is 1."""
    zero = torch.zeros((), dtype=torch.float64)
    box_loss, obj_loss, cls_loss = zero, zero, zero
    levels = len(anchors)
    for level, raw in enumerate(predictions):
        stride = 8 * 2**level
        images, _, rows, columns, _ = raw.shape
        boxes, classes, objectness = [], [], {}
        for image, category, cx, cy, w, h in targets.tolist():
            x, y, w, h = cx * columns, cy * rows, w * columns, h * rows
            for anchor in range(3):
                aw, ah = (side / stride for side in anchors[level][anchor])
                if max(w / aw, aw / w, h / ah, ah / h) >= 4:
                    continue
                cells = [(math.floor(x), math.floor(y))]
                cells += [(math.floor(x) - 1, math.floor(y))] if x % 1 < 0.5 and x > 1 else []
                cells += [(math.floor(x), math.floor(y) - 1)] if y % 1 < 0.5 and y > 1 else []
                right, down = columns - x, rows - y
                cells += (
                    [(math.floor(x) + 1, math.floor(y))] if right % 1 < 0.5 and right > 1 else []
                )
                cells += [(math.floor(x), math.floor(y) + 1)] if down % 1 < 0.5 and down > 1 else []
                for column, row in cells:
                    logits = raw[int(image), anchor, row, column]
                    s = logits.sigmoid()
                    predicted = (
                        2 * s[0] - 0.5 + column,
                        2 * s[1] - 0.5 + row,
                        (2 * s[2]) ** 2 * aw,
                        (2 * s[3]) ** 2 * ah,
                    )
                    ciou = _slow_ciou(predicted, (x, y, w, h))
                    boxes.append(1 - ciou)
                    key = (int(image), anchor, row, column)
                    objectness[key] = max(objectness.get(key, 0.0), ciou.item(), 0.0)
                    unknown = 1 - s[5 + int(category)].item()
                    weight = 1 + (most_class_weight - 1) * max(ciou.item(), 0) ** 2 * unknown
                    for k in range(CLASSES):
                        wanted = 1 - label_smoothing / 2 if k == category else label_smoothing / 2
                        classes.append(weight * _slow_bce(logits[5 + k], wanted))
        cell_losses = [
            _slow_bce(raw[i, a, r, c, 4], objectness.get((i, a, r, c), 0.0))
            for i in range(images)
            for a in range(3)
            for r in range(rows)
            for c in range(columns)
        ]
        balance = ((4.0, 1.0, 0.4) if levels == 3 else (4.0, 1.0, 0.25, 0.06, 0.02))[level]
        obj_loss = obj_loss + balance * torch.stack(cell_losses).mean()
        if boxes:
            box_loss = box_loss + torch.stack(boxes).mean()
            cls_loss = cls_loss + torch.stack(classes).mean()
    gains = (0.05, (image_size / 640) ** 2, 0.5 * CLASSES / 80)
    sums = (box_loss, obj_loss, cls_loss)
    box, obj, cls = (gain * 3 / levels * total for gain, total in zip(gains, sums, strict=True))
    return box, obj, cls


def _slow_bce(logit: Tensor, wanted: float) -> Tensor:
    p = logit.sigmoid()
    return -(wanted * p.log() + (1 - wanted) * (1 - p).log())


def _slow_ciou(p: tuple[Tensor, ...], t: tuple[float, ...]) -> Tensor:
    def edges(centre: Tensor, side: Tensor, at: float, length: float) -> tuple[Tensor, Tensor]:
        low, high = centre - side / 2, centre + side / 2
        inner = high.clamp(max=at + length / 2) - low.clamp(min=at - length / 2)
        outer = high.clamp(min=at + length / 2) - low.clamp(max=at - length / 2)
        return inner.clamp(min=0), outer

    inner_w, outer_w = edges(p[0], p[2], t[0], t[2])
    inner_h, outer_h = edges(p[1], p[3], t[1], t[3])
    intersection = inner_w * inner_h
    iou = intersection / (p[2] * p[3] + t[2] * t[3] - intersection + 1e-7)
    distance = ((p[0] - t[0]) ** 2 + (p[1] - t[1]) ** 2) / (outer_w**2 + outer_h**2 + 1e-7)
    v = 4 / math.pi**2 * (math.atan(t[2] / t[3]) - torch.atan(p[2] / p[3])) ** 2
    alpha = (v / (v - iou + 1 + 1e-7)).detach()
    return iou - distance - alpha * v
