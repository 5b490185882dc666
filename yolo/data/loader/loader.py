"""Load batches in worker processes beside the training, grouped by optimizer step."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from yolo.data.image.decode import UnusableImage
from yolo.data.image.resized import ResizedImages
from yolo.data.loader.sampler import StepSampler, batches_of_one_shape, evaluation_indices
from yolo.data.loader.samples import (
    EvaluationBatch,
    EvaluationSamples,
    TrainingBatch,
    TrainingSamples,
)
from yolo.errors import DataError
from yolo.recipe.schema.recipe import Recipe

Batch = TypeVar("Batch", TrainingBatch, EvaluationBatch)


class BatchLoader(Generic[Batch]):
    """A DataLoader over samples that collate their batches themselves.

    Iterating raises a DataError of one line naming a file that has become unreadable since it was verified.
    """

    def __init__(self, samples: Dataset[Any], workers: int, **batching: Any) -> None:
        """`batching`: the DataLoader's `batch_sampler` or `batch_size`."""
        self._loader: DataLoader[Batch] = DataLoader(
            samples,
            collate_fn=identity_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=use_one_thread,
            **batching,
        )

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._loader
        except DataError as error:
            # An error from a worker has the worker's traceback in its text; the last line is the message.
            last_line = str(error).strip().splitlines()[-1]
            message = re.split(r"(?:UnusableImage|DataError): ", last_line)[-1]
            if isinstance(error, UnusableImage):
                message += "; it was readable when the run started"
            raise DataError(message) from error


def identity_collate(batch: Any) -> Any:
    """`__getitems__` returns a collated batch."""
    return batch


def use_one_thread(_: int) -> None:
    """There are many workers already; OpenCV's own threads would compete with the ranks for the cores."""
    cv2.setNumThreads(0)


class TrainingLoader:
    """This rank's training batches, optimizer step by optimizer step."""

    def __init__(self, images: ResizedImages, recipe: Recipe, rank: int, world_size: int) -> None:
        train, workers = recipe.train, recipe.data.workers
        self._images = images
        self.steps = StepSampler(
            len(images), train.global_batch, train.micro_batch, rank, world_size, train.seed
        )
        samples = TrainingSamples(images, recipe)
        self._batches = BatchLoader[TrainingBatch](samples, workers, batch_sampler=self.steps)

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        return len(self.steps)

    def images_of(self, step: int) -> list[str]:
        """File names of this rank's samples in a step of the run, counted from 1; without a mosaic's other images."""
        epoch, step_of_epoch = divmod(step - 1, len(self.steps))
        batches = islice(self.steps.micro_batches(epoch, step_of_epoch), self.steps.accumulation)
        return [self._images.records[key.image].path.name for keys in batches for key in keys]

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[TrainingBatch]]:
        """The micro batches of each step of an epoch, from `first_step` on. Raises DataError as `BatchLoader` does."""
        self.steps.start_at(epoch, first_step)
        batches = iter(self._batches)
        while micro_batches := list(islice(batches, self.steps.accumulation)):
            yield micro_batches


def evaluation_loader(
    images: ResizedImages,
    batch: int,
    workers: int,
    stride: int | None,
    rank: int = 0,
    world_size: int = 1,
) -> BatchLoader[EvaluationBatch]:
    """This rank's share of the images in batches, each image on one rank; `stride` as in `EvaluationSamples`."""
    samples = EvaluationSamples(images, stride)
    indices = evaluation_indices(len(images), rank, world_size)
    batches = batches_of_one_shape(indices, samples.shape, batch)
    return BatchLoader[EvaluationBatch](samples, workers, batch_sampler=batches)
