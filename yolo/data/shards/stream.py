"""Training on images that are streamed from shards.

Which process reads what, and when each image is drawn, follows from the seed, the epoch, the number of processes and the
sizes of the shards, so an epoch can be resumed at any step without reading what comes before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from yolo.data.augment.pipeline import AugmentPipeline
from yolo.data.image.decode import decode_image
from yolo.data.image.letterbox import resize_long_side
from yolo.data.image.resized import ResizedImages, Tile, tile_of
from yolo.data.loader.loader import BatchLoader, TrainingLoader
from yolo.data.loader.samples import TrainingBatch, allocate_batch, collate
from yolo.data.location import streams_of
from yolo.data.shards.reader import Shards, StoredSample
from yolo.recipe.schema.recipe import Recipe

SHARDS, DRAWS, SAMPLES = 1, 2, 3
"""Separate the random numbers of the shards' order, of the images' order and of the augmentation."""


@dataclass(frozen=True, slots=True)
class ShardSlice:
    """Samples `first` to `stop` of a shard."""

    shard: int
    first: int
    stop: int


def slices_of_stream(
    samples: Sequence[int], stream: int, streams: int, seed: int, epoch: int
) -> list[ShardSlice]:
    """What one of several streams reads in an epoch; `samples`: number of samples in each shard.

    The shards are concatenated in the epoch's order, and each stream takes an equal length of that: full shards if
    their number is a multiple of `streams`, else also parts of one or two. Each sample is in exactly one stream.
    """
    order = np.random.default_rng((seed, epoch, SHARDS)).permutation(len(samples))
    start, stop = stream * len(samples), (stream + 1) * len(samples)  # a shard's length: `streams`
    slices = []
    for place in range(start // streams, -(-stop // streams)):
        shard = int(order[place])
        cuts = (max(start - place * streams, 0), min(stop - place * streams, streams))
        first, last = (cut * samples[shard] // streams for cut in cuts)
        if last > first:
            slices.append(ShardSlice(shard, first, last))
    return slices


class ShuffleBuffer:
    """The numbers 0, 1, 2, ... in the order in which a shuffle buffer of a fixed capacity gives them.

    It holds the numbers that may be drawn next and, once no more can be added, those drawn last.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self.count = count
        self.numbers = list(range(min(count, capacity)))
        self.added = len(self.numbers)
        self._undrawn = len(self.numbers)

    def slot(self, share: float) -> int:
        """The slot to draw, for a random number from 0 to 1."""
        return int(share * self._undrawn)

    def replace(self, slot: int) -> int | None:
        """Replace the drawn number by the next one; returns the removed number, or None if it stays in the buffer."""
        number = self.numbers[slot]
        if self.added < self.count:
            self.numbers[slot] = self.added
            self.added += 1
            return number
        self._undrawn -= 1
        self.numbers[slot] = self.numbers[self._undrawn]
        self.numbers[self._undrawn] = number
        return None


def _streamed_tile(sample: StoredSample, size: int) -> Tile:
    """A sample's image is decoded when it is first used; then its encoded bytes are freed."""
    record, encoded = sample.record, [sample.content]

    @cache
    def read() -> np.ndarray:
        name, width, height = str(record.path), record.width, record.height
        image = decode_image(encoded[0], name, width, height, size)
        encoded.clear()
        return resize_long_side(image, size, (height, width))

    return tile_of(record, size, read)


class _BufferedImages:
    """The images in one process's shuffle buffer."""

    def __init__(
        self, reader: Iterator[tuple[int, StoredSample]], buffer: ShuffleBuffer, size: int
    ) -> None:
        self._reader = reader
        self._buffer = buffer
        self._size = size
        self._tiles: dict[int, Tile] = {}
        self._read(set(buffer.numbers))

    def tile(self, index: int) -> Tile:
        return self._tiles[self._buffer.numbers[index]]

    def replace(self, slot: int) -> None:
        """Replace the drawn image by the next one of the stream."""
        removed = self._buffer.replace(slot)
        if removed is not None:
            del self._tiles[removed]
            self._read({self._buffer.added - 1})

    def _read(self, wanted: set[int]) -> None:
        while wanted:
            number, sample = next(self._reader)
            if number in wanted:
                self._tiles[number] = _streamed_tile(sample, self._size)
                wanted.remove(number)


class StreamedSamples(IterableDataset[TrainingBatch]):
    """A rank's micro batches from `start_at` on; its workers yield one each in turn."""

    def __init__(self, shards: Shards, recipe: Recipe, rank: int, world_size: int) -> None:
        train = recipe.train
        self.shards = shards
        self.rank = rank
        self.world_size = world_size
        self.pipeline = AugmentPipeline(recipe)
        self.seed = train.seed
        self.micro_batch = train.micro_batch
        self.capacity = recipe.data.shuffle_buffer
        self.accumulation = train.global_batch // world_size // train.micro_batch
        self.steps = -(-len(shards) // train.global_batch)
        self.workers = streams_of(recipe)
        # Workers outlive an epoch, and see only changes in shared memory.
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()
        self.bytes_read = torch.zeros(self.workers, dtype=torch.int64).share_memory_()
        """Per worker, since it was started."""

    def start_at(self, epoch: int, first_step: int) -> None:
        """Set where the next iteration starts."""
        self._position.copy_(torch.tensor([epoch, first_step]))

    def __iter__(self) -> Iterator[TrainingBatch]:
        epoch, first_step = self._position.tolist()  # read now: the batches are made later
        info = get_worker_info()
        return self._batches(0 if info is None else info.id, epoch, first_step * self.accumulation)

    def _batches(self, worker: int, epoch: int, first_batch: int) -> Iterator[TrainingBatch]:
        """The first worker makes `first_batch`, the second worker the next one, and so on."""
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
        size, draw, count = self.pipeline.size, self.pipeline.draw_into, len(buffer.numbers)
        images = _BufferedImages(reader, buffer, size)
        for batch in range(first_draw, draws, self.micro_batch):
            pixels = allocate_batch(self.micro_batch, size, size)
            targets = []
            for number, into in enumerate(pixels.numpy(), batch):
                slot = buffer.slot(slots[number])
                random = np.random.default_rng((*position, SAMPLES, number))
                targets.append(draw(into, images.tile, count, slot, epoch, random))
                images.replace(slot)
            yield collate(pixels, targets)

    def _read(
        self, worker: int, stream: int, epoch: int, start: int
    ) -> Iterator[tuple[int, StoredSample]]:
        """A stream's images from number `start` on, endlessly: the first image follows the last."""

        def count(size: int) -> None:
            self.bytes_read[worker] += size

        samples = [shard.samples for shard in self.shards.index.shards]
        streams = self.world_size * self.workers
        slices = slices_of_stream(samples, stream, streams, self.seed, epoch)
        number = 0
        while True:
            for part in slices:
                first = min(part.first + max(start - number, 0), part.stop)
                number += first - part.first
                if first < part.stop:
                    for sample in self.shards.samples(part.shard, first, part.stop, count):
                        yield number, sample
                        number += 1


class StreamingLoader:
    """This rank's training batches from shards, optimizer step by optimizer step, as `TrainingLoader`.

    An epoch has as many steps as with files. Each worker of each rank reads its own equal share of the shards, and the
    workers yield a micro batch each in turn. A worker that needs more images than it has starts again with its first; a
    worker that has more skips the last: at most about a micro batch per worker per epoch, different ones in each epoch.
    """

    def __init__(self, shards: Shards, recipe: Recipe, rank: int, world_size: int) -> None:
        self._samples = StreamedSamples(shards, recipe, rank, world_size)
        workers = recipe.data.workers
        self._batches = BatchLoader[TrainingBatch](self._samples, workers, batch_size=None)

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        return self._samples.steps

    @property
    def bytes_read(self) -> int:
        """Bytes of shards that this rank's workers have read so far."""
        return int(self._samples.bytes_read.sum())

    def images_of(self, step: int) -> list[str]:
        """See `TrainingLoader.images_of`; which images a shuffled stream gave is not known."""
        return [f"those streamed for step {step}"]

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[TrainingBatch]]:
        """The micro batches of each step of an epoch, from `first_step` on.

        Skipped steps are not decoded; reading starts at the oldest image that the shuffle buffer still holds. Raises
        DataError naming a shard that cannot be read, or an image that cannot be decoded.
        """
        self._samples.start_at(epoch, first_step)
        batches = iter(self._batches)
        while micro_batches := list(islice(batches, self._samples.accumulation)):
            yield micro_batches


def training_loader(
    images: ResizedImages | Shards, recipe: Recipe, rank: int, world_size: int
) -> TrainingLoader | StreamingLoader:
    """This rank's training batches, from files or from shards."""
    if isinstance(images, Shards):
        return StreamingLoader(images, recipe, rank, world_size)
    return TrainingLoader(images, recipe, rank, world_size)
