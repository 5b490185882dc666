"""Writing a split as shards: tar files that are read from front to back, each a random part of the images."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

import numpy as np
from webdataset.writer import TarWriter

from yolo.data.dataset import DetectionDataset, ImageRecord, refuse_if_bad
from yolo.data.image.resized import ResizedImages
from yolo.data.image_suffixes import IMAGE_SUFFIXES
from yolo.data.open import load_split
from yolo.data.progress_protocol import Counting, uncounted
from yolo.data.shards.index import ARRAYS, INDEX, Shard, ShardIndex
from yolo.data.shards.reader import ANNOTATION, annotation_of
from yolo.data.verification import verify_images
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_IMAGE_BYTES, read_bytes
from yolo.recipe.resolve.hardware import count_cores
from yolo.recipe.schema.recipe import Recipe

MB = 10**6
MOST_SHAPES = 100_000
"""Boxes whose shape is kept for anchors: k-means needs no more."""


def shard_split(
    recipe: Recipe,
    split: str,
    out: Path,
    shard_mb: float,
    shards: int | None = None,
    counting: Counting = uncounted,
) -> tuple[ShardIndex, list[str]]:
    """Write a split of a recipe's data into a folder `out / split`, whole or not at all.

    Images are shuffled by `train.seed` and dealt out so that shards hold equally many, to within one: as many shards as
    are asked for, or so many that each has about `shard_mb` MB. Images that cannot be read are left out. Returns the
    index, and what was wrong in lines. Raises DataError where the folder is there already, or where more is wrong than
    `data.max_bad_share` allows.
    """
    folder = out / split
    if folder.exists():
        raise DataError(f"{folder}: is there already; remove it, or name another folder")
    if recipe.data.format == "shards":
        raise DataError("data.format: is shards already; name a recipe whose data are coco or yolo")
    dataset = load_split(recipe.data, split)
    images = ResizedImages(dataset.records, recipe.model.image_size, None)
    with counting(f"verifying {split} images", len(images)) as advance:
        dataset = dataset.without(verify_images(images, threads=count_cores(), advance=advance))
    refuse_if_bad(dataset.report, recipe.data.max_bad_share)
    if shards is None:
        total = sum(record.path.stat().st_size for record in dataset.records)
        shards = max(1, math.ceil(total / (shard_mb * MB)))
    if shards > len(dataset):
        raise DataError(
            f"{dataset.source}: {len(dataset)} images do not fill {shards} shards; ask for fewer"
        )
    out.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=out))
    try:
        index = _write(dataset, split, temporary, shards, recipe.train.seed, counting)
        temporary.chmod(0o755)  # so that colleagues can read it
        temporary.rename(folder)
    except BaseException:
        rmtree(temporary, ignore_errors=True)
        raise
    return index, dataset.report.lines()


def _write(
    dataset: DetectionDataset, split: str, folder: Path, shards: int, seed: int, counting: Counting
) -> ShardIndex:
    random = np.random.default_rng(seed)
    parts = np.array_split(random.permutation(len(dataset)), shards)
    entries, offsets = [], []
    with counting(f"writing {split} images", len(dataset)) as advance:
        for number, part in enumerate(parts):
            path = folder / f"{split}-{number:06d}.tar"
            with TarWriter(str(path), encoder=False, mtime=0) as writer:
                for position in map(int, part):
                    offsets.append(writer.tarstream.offset)
                    writer.write(_entry(dataset.records[position], position))
                    advance(1)
                offsets.append(writer.tarstream.offset)
            entries.append(Shard(name=path.name, samples=len(part), bytes=path.stat().st_size))
    shapes = dataset.box_shapes(1)
    if len(shapes) > MOST_SHAPES:
        shapes = shapes[np.sort(random.choice(len(shapes), MOST_SHAPES, replace=False))]
    np.savez_compressed(folder / ARRAYS, offsets=np.array(offsets, np.int64), shapes=shapes)
    index = ShardIndex(
        version=1,
        split="train" if split == "train" else "val",
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        boxes=dataset.box_count,
        fingerprint=dataset.fingerprint,
        seed=seed,
        shards=tuple(entries),
    )
    (folder / INDEX).write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return index


def _entry(record: ImageRecord, position: int) -> dict[str, str | bytes]:
    suffix = record.path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:  # of which `.json` would take the annotations' place
        suffix = ".image"
    return {
        "__key__": f"{position:012d}",
        suffix[1:]: read_bytes(record.path, MOST_IMAGE_BYTES),
        ANNOTATION: annotation_of(record, position),
    }


def shards_line(index: ShardIndex, folder: Path, problems: Sequence[str]) -> list[str]:
    """What was written, in lines."""
    size = sum(shard.bytes for shard in index.shards)
    most = max(shard.bytes for shard in index.shards)
    written = (
        f"{folder}: {index.images} images, {index.boxes} boxes of {len(index.class_names)} classes in "
        f"{len(index.shards)} shards, {size / MB:.1f} MB, the largest {most / MB:.1f} MB"
    )
    return [*(f"warning: left out or put right: {line}" for line in problems), written]
