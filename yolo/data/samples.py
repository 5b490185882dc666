"""Samples as the network takes them, one by one and in batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from yolo.data.augmentation import Augmentation, Labelled, blend, flip, mosaic, recolour, warp
from yolo.data.dataset import DetectionDataset, ImageRecord
from yolo.data.image_file import read_image
from yolo.data.letterbox import Letterbox, letterbox, resize_long_side
from yolo.data.sampler import SampleKey
from yolo.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Sample:
    """An image (3, S, S) uint8, red green blue, and its targets (M, 5): class, cx, cy, w, h, normalised."""

    image: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Images (B, 3, S, S) uint8 and targets (M, 6): index in the batch, class, cx, cy, w, h, normalised."""

    images: torch.Tensor
    targets: torch.Tensor

    def pin_memory(self) -> "TrainingBatch":
        """The batch in memory that a GPU can fetch from by itself."""
        return TrainingBatch(self.images.pin_memory(), self.targets.pin_memory())


@dataclass(frozen=True, slots=True)
class EvaluationBatch:
    """Letterboxed images (B, 3, S, S) uint8, and what leads back to each original."""

    images: torch.Tensor
    letterboxes: tuple[Letterbox, ...]
    image_ids: tuple[int, ...]


class ResizedImages:
    """Images with their long side at the network's size, kept decoded where the recipe says so."""

    def __init__(self, records: Sequence[ImageRecord], size: int, must_keep: bool) -> None:
        self.records = records
        self.size = size
        self.must_keep = must_keep
        self.kept: dict[int, np.ndarray] = {}

    def __getitem__(self, index: int) -> Labelled:
        """An image and its boxes in its own pixels, crowds left out."""
        record = self.records[index]
        image = self.kept.get(index)
        if image is None:
            image = resize_long_side(
                read_image(record.path, record.width, record.height), self.size
            )
            if self.must_keep:
                self.kept[index] = image
        scale = self.size / max(record.width, record.height)
        is_single = ~record.crowd
        return Labelled(image, record.boxes[is_single] * scale, record.classes[is_single])


class TrainingSamples(Dataset[Sample]):
    """Augmented samples: what comes out depends on (seed, epoch, index) alone, whichever rank or worker draws it."""

    def __init__(self, dataset: DetectionDataset, recipe: Recipe) -> None:
        section = recipe.data.augmentation
        self.images = ResizedImages(
            dataset.records, recipe.model.image_size, recipe.data.cache == "ram"
        )
        self.size = recipe.model.image_size
        self.seed = recipe.train.seed
        self.augmentation = Augmentation.from_section(section)
        self.last_mosaic_epoch = recipe.train.epochs - section.mosaic_off_epochs

    def __len__(self) -> int:
        return len(self.images.records)

    def __getitem__(self, key: SampleKey) -> Sample:
        random = np.random.default_rng((self.seed, key.epoch, key.image))
        settings = self.augmentation
        is_mosaic = key.epoch < self.last_mosaic_epoch and random.random() < settings.mosaic
        labelled = self._draw(key.image, is_mosaic, random)
        if is_mosaic and random.random() < settings.mixup:
            other = int(random.integers(len(self)))
            labelled = blend(labelled, self._draw(other, is_mosaic, random), random)
        labelled = flip(labelled, settings, random)
        return self._finished(
            Labelled(recolour(labelled.image, settings, random), labelled.boxes, labelled.classes)
        )

    def _draw(self, index: int, is_mosaic: bool, random: np.random.Generator) -> Labelled:
        if is_mosaic:
            indices = [index, *(int(other) for other in random.integers(len(self), size=3))]
            random.shuffle(indices)
            canvas = mosaic([self.images[i] for i in indices], self.size, random)
        else:
            plain = self.images[index]
            image, placed = letterbox(plain.image, self.size)
            canvas = Labelled(image, placed.boxes_into(plain.boxes), plain.classes)
        return warp(canvas, self.size, self.augmentation, random)

    def _finished(self, labelled: Labelled) -> Sample:
        boxes = labelled.boxes.reshape(-1, 4)
        centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        targets = np.column_stack([labelled.classes, centre / self.size, side / self.size])
        return Sample(_to_tensor(labelled.image), torch.from_numpy(targets.astype(np.float32)))


class EvaluationSamples(Dataset[EvaluationBatch]):
    """Letterboxed images, unaltered otherwise."""

    def __init__(self, dataset: DetectionDataset, image_size: int) -> None:
        self.records = dataset.records
        self.size = image_size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> EvaluationBatch:
        record = self.records[index]
        image, placed = letterbox(read_image(record.path, record.width, record.height), self.size)
        return EvaluationBatch(_to_tensor(image)[None], (placed,), (record.image_id,))


def collate_training(samples: Sequence[Sample]) -> TrainingBatch:
    """Samples as one batch."""
    targets = [
        torch.cat([torch.full((len(sample.targets), 1), float(index)), sample.targets], dim=1)
        for index, sample in enumerate(samples)
    ]
    return TrainingBatch(torch.stack([sample.image for sample in samples]), torch.cat(targets))


def collate_evaluation(samples: Sequence[EvaluationBatch]) -> EvaluationBatch:
    """Batches of one as one batch."""
    return EvaluationBatch(
        torch.cat([sample.images for sample in samples]),
        tuple(sample.letterboxes[0] for sample in samples),
        tuple(sample.image_ids[0] for sample in samples),
    )


def to_network(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images (B, 3, H, W) uint8 as floats in 0..1 on the device, channels last, which convolutions prefer."""
    moved = images.to(device, non_blocking=True).to(memory_format=torch.channels_last)
    return moved.float().div_(255.0)


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """(S, S, 3) blue green red to (3, S, S) red green blue."""
    return torch.from_numpy(
        np.ascontiguousarray(
            cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
        )
    )
