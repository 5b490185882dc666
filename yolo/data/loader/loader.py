"""Loading samples beside the training: worker processes, batches, optimizer steps."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from yolo.data.image.decode import UnusableImage
from yolo.data.image.resized import ResizedImages
from yolo.data.loader.sampler import (
    SampleKey,
    StepSampler,
    batches_of_one_shape,
    evaluation_indices,
)
from yolo.data.loader.samples import (
    EvaluationBatch,
    EvaluationSamples,
    TrainingBatch,
    TrainingSamples,
)
from yolo.errors import DataError
from yolo.recipe.schema.recipe import Recipe

Batch = TypeVar("Batch", TrainingBatch, EvaluationBatch)


class _EpochBatches(Sampler[list[SampleKey]]):
    """The DataLoader asks for batches anew at each epoch; which one it is, and from where on, stands here."""

    def __init__(self, steps: StepSampler) -> None:
        self.steps = steps
        self.epoch = 0
        self.first_step = 0

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return self.steps.micro_batches(self.epoch, self.first_step)


class TrainingLoader:
    """This rank's training batches, optimizer step by optimizer step."""

    def __init__(self, images: ResizedImages, recipe: Recipe, rank: int, world_size: int) -> None:
        train = recipe.train
        self._images = images
        self.steps = StepSampler(
            len(images),
            train.global_batch,
            train.micro_batch,
            rank,
            world_size,
            train.seed,
        )
        self._batches = _EpochBatches(self.steps)
        workers = recipe.data.workers
        self._loader = DataLoader(
            TrainingSamples(images, recipe),
            batch_sampler=self._batches,
            collate_fn=identity_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=one_thread,
        )

    def __len__(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.steps)

    def images_of(self, step: int) -> list[str]:
        """The files that this rank's samples of a step of the run, counted from 1, are drawn around."""
        epoch, step_of_epoch = divmod(step - 1, len(self.steps))
        micro_batches = islice(
            self.steps.micro_batches(epoch, step_of_epoch), self.steps.accumulation
        )
        return [self._images.records[key.image].path.name for keys in micro_batches for key in keys]

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[TrainingBatch]]:
        """The micro batches of each step of an epoch, from `first_step` on.

        Raises DataError naming a file that has become unreadable since it was verified.
        """
        self._batches.epoch, self._batches.first_step = epoch, first_step
        batches = readable(self._loader)
        while micro_batches := list(islice(batches, self.steps.accumulation)):
            yield micro_batches


class EvaluationLoader:
    """One rank's share of the images in batches, every image on exactly one rank.

    Iterating raises DataError naming a file that has become unreadable since it was verified.
    """

    def __init__(self, batches: "DataLoader[EvaluationBatch]") -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[EvaluationBatch]:
        return readable(self._batches)


def readable(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; what a worker could not read is a DataError of one line."""
    try:
        yield from batches
    except DataError as error:
        # From a worker it comes with the worker's traceback in its text; the last line is the message.
        last_line = str(error).strip().splitlines()[-1]
        message = re.split(r"(?:UnusableImage|DataError): ", last_line)[-1]
        if isinstance(error, UnusableImage):
            message += "; it could be read when the work began"
        raise DataError(message) from error


def evaluation_loader(
    images: ResizedImages,
    batch: int,
    workers: int,
    stride: int | None,
    rank: int = 0,
    world_size: int = 1,
) -> EvaluationLoader:
    """This rank's share of the images; `stride` as `EvaluationSamples` has it."""
    samples = EvaluationSamples(images, stride)
    mine = evaluation_indices(len(images), rank, world_size)
    return EvaluationLoader(
        DataLoader(
            samples,
            batch_sampler=batches_of_one_shape(mine, samples.shape, batch),
            collate_fn=identity_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=one_thread,
        )
    )


def identity_collate(batch: Any) -> Any:
    """`__getitems__` has put it together."""
    return batch


def one_thread(_: int) -> None:
    """Workers are many already; OpenCV's own threads would fight with the ranks' for the cores."""
    cv2.setNumThreads(0)
