"""Streaming from shards against loading files: images/s, and the bytes that each rank reads.

`python -m yolo.bench.streaming recipes/bccd.yaml data.root=/path/to/bccd`; a local folder stands in for the object storage.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.bench.command_line import recipe_parser
from yolo.data.image.cache import ImageCache, memory_budget
from yolo.data.image.resized import ResizedImages
from yolo.data.loader.loader import TrainingLoader
from yolo.data.open import load_split
from yolo.data.shards.reader import open_shards
from yolo.data.shards.stream import StreamingLoader
from yolo.data.shards.writer import shard_split
from yolo.errors import exit_code_of
from yolo.recipe import Recipe, prepare

RANKS = 2
SHARDS_PER_WORKER = 2
EPOCHS = 2
"""Timed, after one epoch in which workers start and caches are filled."""


@dataclass(frozen=True, slots=True)
class StreamingFigures:
    """Rates are means over the ranks, which load one after the other with nothing beside them."""

    images: int
    streamed: float
    """Images/s from shards."""
    from_files: float
    """Images/s from files that are decoded each time."""
    from_memory: float
    """Images/s from decoded images in memory, as with `data.cache: ram`."""
    bytes_read: tuple[int, ...]
    """From shards by each rank, per epoch."""
    bytes_in_shards: int
    """The sum over all samples."""

    def lines(self) -> list[str]:
        """The figures for the console."""
        share = sum(self.bytes_read) / self.bytes_in_shards
        each = ", ".join(f"{read / 1e6:.2f}" for read in self.bytes_read)
        return [
            f"images/s per rank: {self.streamed:.0f} streamed, {self.from_files:.0f} from files, "
            f"{self.from_memory:.0f} cached in memory",
            f"MB read per epoch by {len(self.bytes_read)} ranks: {each}; together {share:.1%} of the "
            f"{self.bytes_in_shards / 1e6:.2f} MB of {self.images} images",
        ]


def measure_streaming(
    recipe_path: Path, overrides: Sequence[str], ranks: int = RANKS
) -> StreamingFigures:
    """Shard a recipe's training split into a temporary folder and load it in both ways.

    Raises DataError if its data cannot be read.
    """
    prepared = prepare(recipe_path, overrides, ranks, ranks)
    recipe = prepared.resolved.recipe
    workers = recipe.data.workers
    with tempfile.TemporaryDirectory() as folder:
        shards = SHARDS_PER_WORKER * ranks * max(1, workers)
        shard_split(recipe, "train", Path(folder), shard_mb=1, shards=shards)
        places = ("data.format=shards", f"data.root={folder}", "data.train=train")
        streamed = prepared.with_values(*places).resolved.recipe
        opened = open_shards(streamed.data, "train")
        loaders = [StreamingLoader(opened, streamed, rank, ranks) for rank in range(ranks)]
        rates = [_images_per_second(loader) for loader in loaders]
        read = tuple(loader.bytes_read // (1 + EPOCHS) for loader in loaders)
    files, memory = (_from_files(recipe, ranks, is_cached) for is_cached in (False, True))
    return StreamingFigures(
        images=len(opened),
        streamed=sum(rates) / ranks,
        from_files=files,
        from_memory=memory,
        bytes_read=read,
        bytes_in_shards=sum(int(offsets[-1]) for offsets in opened.offsets),
    )


def _from_files(recipe: Recipe, ranks: int, is_cached: bool) -> float:
    records = load_split(recipe.data, "train").records
    size = recipe.model.image_size
    cache = ImageCache.in_memory(records, size, memory_budget()) if is_cached else None
    images = ResizedImages(records, size, cache)
    loaders = (TrainingLoader(images, recipe, rank, ranks) for rank in range(ranks))
    return sum(map(_images_per_second, loaders)) / ranks


def _images_per_second(loader: TrainingLoader | StreamingLoader) -> float:
    for _ in loader.epoch(0):
        pass
    started = time.perf_counter()
    images = 0
    for epoch in range(1, 1 + EPOCHS):
        for micro_batches in loader.epoch(epoch):
            images += sum(len(batch.images) for batch in micro_batches)
    return images / (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = recipe_parser("yolo.bench.streaming", __doc__)
    parser.add_argument("--ranks", type=int, default=RANKS, help="default %(default)s")
    options = parser.parse_args(arguments)
    job = options.recipe, options.overrides, options.ranks
    return exit_code_of(lambda: print(*measure_streaming(*job).lines(), sep="\n"), "streaming")


if __name__ == "__main__":
    sys.exit(main())
