"""Training on images that are streamed from shards."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from yolo.data.augment.geometry import Tile
from yolo.data.augment.pipeline import AugmentPipeline
from yolo.data.image.decode import decode_image
from yolo.data.image.letterbox import resize_long_side
from yolo.data.image.resized import ResizedImages, tile_of
from yolo.data.loader.loader import TrainingLoader, identity_collate, one_thread, readable
from yolo.data.loader.samples import TrainingBatch, batch_of, new_batch
from yolo.data.shards.index import streams_of
from yolo.data.shards.order import ShuffleBuffer, stretches_of
from yolo.data.shards.reader import Shards, StoredSample
from yolo.recipe.schema.recipe import Recipe

DRAWS, SAMPLES = 2, 3
"""Keep the random numbers of the order and of the augmentation apart."""


class _Image:
    """A streamed image, decoded when it is first seen."""

    def __init__(self, sample: StoredSample, size: int) -> None:
        self._content: bytes | None = sample.content
        self._pixels: np.ndarray | None = None
        self._record = sample.record
        self._size = size
        self.tile: Tile = tile_of(sample.record, size, self._read)

    def _read(self) -> np.ndarray:
        if self._pixels is None:
            assert self._content is not None
            record = self._record
            name, height, width = str(record.path), record.height, record.width
            image = decode_image(self._content, name, width, height, self._size)
            self._pixels = resize_long_side(image, self._size, (height, width))
            self._content = None
        return self._pixels


class _Stream:
    """One process's images of one epoch, of which a sample can be drawn (`Tiles`)."""

    def __init__(
        self, reader: Iterator[tuple[int, StoredSample]], buffer: ShuffleBuffer, size: int
    ) -> None:
        self._reader = reader
        self._buffer = buffer
        self._size = size
        self._images: dict[int, _Image] = {}
        self._take_in(set(buffer.numbers))

    def __len__(self) -> int:
        return len(self._buffer.numbers)

    def tile(self, index: int) -> Tile:
        """See `Tiles`."""
        return self._images[self._buffer.numbers[index]].tile

    def replace(self, slot: int) -> None:
        """What was drawn makes room for the next image."""
        gone = self._buffer.replace(slot)
        if gone is not None:
            del self._images[gone]
            self._take_in({self._buffer.taken_in - 1})

    def _take_in(self, wanted: set[int]) -> None:
        while wanted:
            number, sample = next(self._reader)
            if number in wanted:
                self._images[number] = _Image(sample, self._size)
                wanted.remove(number)


class StreamedSamples(IterableDataset[TrainingBatch]):
    """A rank's micro batches from where `begin_at` says; its workers take turns in making one."""

    def __init__(self, shards: Shards, recipe: Recipe, rank: int, world_size: int) -> None:
        train = recipe.train
        self.shards = shards
        self.painter = AugmentPipeline(recipe)
        self.seed = train.seed
        self.capacity = recipe.data.shuffle_buffer
        self.micro_batch = train.micro_batch
        self.accumulation = train.global_batch // world_size // train.micro_batch
        self.steps = -(-len(shards) // train.global_batch)
        self.rank = rank
        self.world_size = world_size
        self.workers = streams_of(recipe)
        # Workers live longer than an epoch, and see only what lies in shared memory.
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()
        self.bytes_read = torch.zeros(self.workers, dtype=torch.int64).share_memory_()
        """By each worker since it began."""

    def begin_at(self, epoch: int, first_step: int) -> None:
        """Where the next iteration begins."""
        self._position.copy_(torch.tensor([epoch, first_step]))

    def __iter__(self) -> Iterator[TrainingBatch]:
        epoch, first_step = self._position.tolist()  # now: the batches are made later
        info = get_worker_info()
        return self._batches(0 if info is None else info.id, epoch, first_step * self.accumulation)

    def _batches(self, worker: int, epoch: int, first_batch: int) -> Iterator[TrainingBatch]:
        """`first_batch` is the first worker's, the next one the second's, and so on."""
        share = (first_batch + worker) % self.workers
        batches = range(share, self.steps * self.accumulation, self.workers)
        first_draw = len(range(share, first_batch, self.workers)) * self.micro_batch
        draws = len(batches) * self.micro_batch
        if first_draw >= draws:
            return
        stream = self.rank * self.workers + share
        position = (self.seed, epoch, stream)
        slots = np.random.default_rng((*position, DRAWS)).random(draws)
        buffer = ShuffleBuffer(draws, self.capacity)
        for slot in slots[:first_draw]:
            buffer.replace(buffer.slot(slot))
        reader = self._read(worker, stream, epoch, min(buffer.numbers))
        images = _Stream(reader, buffer, self.painter.size)
        size = self.painter.size
        for batch in range(first_draw, draws, self.micro_batch):
            pixels = new_batch((self.micro_batch, size, size, 3))
            targets = []
            for number, place in enumerate(pixels.numpy(), batch):
                slot = buffer.slot(slots[number])
                random = np.random.default_rng((*position, SAMPLES, number))
                targets.append(self.painter.draw_into(place, images, slot, epoch, random))
                images.replace(slot)
            yield batch_of(pixels, targets)

    def _read(
        self, worker: int, stream: int, epoch: int, start: int
    ) -> Iterator[tuple[int, StoredSample]]:
        """A stream's images from number `start` on, without end: after the last the first comes again."""

        def count(size: int) -> None:
            self.bytes_read[worker] += size

        samples = [shard.samples for shard in self.shards.index.shards]
        streams = self.world_size * self.workers
        stretches = stretches_of(samples, stream, streams, self.seed, epoch)
        number = 0
        while True:
            for stretch in stretches:
                length = stretch.stop - stretch.first
                skipped = min(max(start - number, 0), length)
                number += skipped
                if skipped < length:
                    first = stretch.first + skipped
                    for sample in self.shards.samples(stretch.shard, first, stretch.stop, count):
                        yield number, sample
                        number += 1


class StreamingLoader:
    """This rank's training batches from shards, optimizer step by optimizer step; as `TrainingLoader`.

    An epoch has as many steps as that of a data set in files. Each worker of each rank reads its own equal share of
    the shards, and workers take turns in giving a micro batch. A worker that has to give more images than it has begins
    again with its first, and of one that has more the last are left out: at most about a micro batch a worker and
    epoch, and other images in the next.
    """

    def __init__(self, shards: Shards, recipe: Recipe, rank: int, world_size: int) -> None:
        self._samples = StreamedSamples(shards, recipe, rank, world_size)
        workers = recipe.data.workers
        self._loader = DataLoader(
            self._samples,
            batch_size=None,
            collate_fn=identity_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=one_thread,
        )

    def __len__(self) -> int:
        """Optimizer steps of an epoch."""
        return self._samples.steps

    @property
    def bytes_read(self) -> int:
        """Of shards, by this rank's workers so far."""
        return int(self._samples.bytes_read.sum())

    def images_of(self, step: int) -> list[str]:
        """As `TrainingLoader`'s; which images a shuffled stream gave is not known."""
        return [f"those streamed for step {step}"]

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[TrainingBatch]]:
        """The micro batches of each step of an epoch, from `first_step` on.

        Of what comes before, nothing is decoded, and read only from where the shuffle buffer still holds an image. Raises
        DataError naming a shard that cannot be read, or an image that cannot be decoded.
        """
        self._samples.begin_at(epoch, first_step)
        batches = readable(self._loader)
        while micro_batches := list(islice(batches, self._samples.accumulation)):
            yield micro_batches


def training_loader(
    images: ResizedImages | Shards, recipe: Recipe, rank: int, world_size: int
) -> TrainingLoader | StreamingLoader:
    """This rank's training batches."""
    if isinstance(images, Shards):
        return StreamingLoader(images, recipe, rank, world_size)
    return TrainingLoader(images, recipe, rank, world_size)
