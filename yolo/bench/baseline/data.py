"""The baseline's images: read, augmented and collated one after another."""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from yolo.data.augment.pipeline import random_view
from yolo.data.dataset import ImageRecord
from yolo.data.image.letterbox import GREY
from yolo.data.loader.loader import use_one_thread
from yolo.recipe.schema.recipe import Recipe

Labels = np.ndarray
"""(M, 5): class and corners in pixels."""
SquareImage = tuple[torch.Tensor, tuple[int, int], float, ImageRecord]
"""An image (3, S, S) uint8, RGB; the left and top padding; the scale of what is between."""
Batch = tuple[torch.Tensor, torch.Tensor]
"""Images (B, 3, S, S) uint8, and targets (M, 6): index in the batch, class, cx, cy, w, h, normalised."""


class PlainSamples(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Mosaic, affine or perspective map, colour and flips by the recipe's settings."""

    def __init__(self, records: Sequence[ImageRecord], recipe: Recipe) -> None:
        self.records = records
        self.size = recipe.model.image_size
        self.settings = recipe.data.augmentation
        self.has_mosaic = True

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        random = np.random.default_rng(int(torch.randint(2**62, ())))
        settings = self.settings
        is_mosaic = self.has_mosaic and random.random() < settings.mosaic
        image, labels = self._warped(index, is_mosaic, random)
        if is_mosaic and random.random() < settings.mixup:
            other = int(random.integers(len(self)))
            other_image, other_labels = self._warped(other, is_mosaic, random)
            share = random.beta(32, 32)
            image = (image * share + other_image * (1 - share)).astype(np.uint8)
            labels = np.concatenate([labels, other_labels])
        image = self._jittered(image, random)
        if random.random() < settings.flipud:
            image = np.flipud(image)
            labels[:, [2, 4]] = self.size - labels[:, [4, 2]]
        if random.random() < settings.fliplr:
            image = np.fliplr(image)
            labels[:, [1, 3]] = self.size - labels[:, [3, 1]]
        targets = np.zeros((len(labels), 6), dtype=np.float32)
        targets[:, 1] = labels[:, 0]
        targets[:, 2:4] = (labels[:, 1:3] + labels[:, 3:5]) / 2 / self.size
        targets[:, 4:6] = (labels[:, 3:5] - labels[:, 1:3]) / self.size
        return _to_tensor(image), torch.from_numpy(targets)

    def read(self, index: int) -> tuple[np.ndarray, Labels]:
        """Read an image (H, W, 3), its long side at the network's size, and its labels."""
        record = self.records[index]
        image = cv2.imread(str(record.path))
        if image is None:
            raise OSError(f"{record.path}: cannot be read")
        scale = self.size / max(image.shape[:2])
        sides = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        resized = cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR)
        is_object = ~record.crowd
        return resized, np.column_stack(
            [record.classes[is_object], record.boxes[is_object] * scale]
        ).astype(np.float32)

    def _warped(
        self, index: int, is_mosaic: bool, random: np.random.Generator
    ) -> tuple[np.ndarray, Labels]:
        if is_mosaic:
            canvas, labels = self._mosaic(index, random)
        else:
            canvas, labels = _padded(*self.read(index), self.size)
        view = random_view(canvas.shape[0], self.size, self.settings, random)
        sides, grey = (self.size, self.size), (GREY, GREY, GREY)
        if self.settings.perspective:
            image = cv2.warpPerspective(canvas, view.matrix, sides, borderValue=grey)
        else:
            image = cv2.warpAffine(canvas, view.matrix[:2], sides, borderValue=grey)
        corners = np.ones((len(labels) * 4, 3))
        corners[:, :2] = labels[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 2)
        moved = corners @ view.matrix.T
        points = (moved[:, :2] / moved[:, 2:]).reshape(-1, 4, 2)
        boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        boxes = boxes.clip(0, self.size)
        before = (labels[:, 3:5] - labels[:, 1:3]).prod(axis=1) * view.magnification**2
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        kept = (width > 2) & (height > 2) & (width * height > 0.1 * before)
        return image, np.column_stack([labels[kept, 0], boxes[kept]]).astype(np.float32)

    def _mosaic(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, Labels]:
        size = self.size
        middle_x, middle_y = (int(m) for m in random.uniform(0.5 * size, 1.5 * size, 2))
        canvas = np.full((2 * size, 2 * size, 3), GREY, dtype=np.uint8)
        all_labels = []
        indices = [index, *(int(other) for other in random.integers(len(self), size=3))]
        for tile, chosen in enumerate(indices):
            image, labels = self.read(chosen)
            height, width = image.shape[:2]
            left = middle_x - width if tile % 2 == 0 else middle_x
            top = middle_y - height if tile < 2 else middle_y
            x1, y1 = max(left, 0), max(top, 0)
            x2, y2 = min(left + width, 2 * size), min(top + height, 2 * size)
            canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
            labels[:, 1:] = (labels[:, 1:] + [left, top, left, top]).clip(0, 2 * size)
            all_labels.append(labels)
        return canvas, np.concatenate(all_labels)

    def _jittered(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        limits = np.array([self.settings.hsv_h, self.settings.hsv_s, self.settings.hsv_v])
        gains = 1 + random.uniform(-1, 1, 3) * limits
        hue, saturation, value = np.arange(256) * gains[:, None]
        tables = np.array([hue % 180, saturation.clip(0, 255), value.clip(0, 255)])
        channels = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
        changed = [cv2.LUT(*each) for each in zip(channels, tables.astype(np.uint8), strict=True)]
        return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR)


class PlainSquares(PlainSamples):
    """The validation images, not augmented, each padded to a square around its centre."""

    def __getitem__(self, index: int) -> SquareImage:  # type: ignore[override]
        image, labels = self.read(index)
        size, record = self.size, self.records[index]
        square, _ = _padded(image, labels, size)
        padding = (size - image.shape[1]) // 2, (size - image.shape[0]) // 2
        scale = size / max(record.width, record.height)
        return _to_tensor(square), padding, scale, record


def plain_loader(
    samples: PlainSamples,
    recipe: Recipe,
    collate: Callable[[Sequence[Any]], Any],
    shuffle: bool = False,
) -> "DataLoader[Any]":
    """Batches, the last of an epoch may be smaller; OpenCV has one thread per worker."""
    return DataLoader(
        samples,
        batch_size=recipe.train.global_batch,
        shuffle=shuffle,
        num_workers=recipe.data.workers,
        collate_fn=collate,
        worker_init_fn=use_one_thread,
    )


def collate_batch(samples: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Batch:
    """Stack images, and number their targets."""
    for number, (_, targets) in enumerate(samples):
        targets[:, 0] = number
    images = torch.stack([pixels for pixels, _ in samples])
    return images, torch.cat([targets for _, targets in samples])


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)))


def _padded(image: np.ndarray, labels: Labels, size: int) -> tuple[np.ndarray, Labels]:
    square = np.full((size, size, 3), GREY, dtype=np.uint8)
    height, width = image.shape[:2]
    left, top = (size - width) // 2, (size - height) // 2
    square[top : top + height, left : left + width] = image
    labels[:, 1:] += [left, top, left, top]
    return square, labels
