"""Write a split as shards: tar files for sequential reading, each with a random part of the images."""

import io
import math
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

import numpy as np

from yolo.data.dataset import DetectionDataset, refuse_if_bad
from yolo.data.image import IMAGE_SUFFIXES
from yolo.data.image.resized import ResizedImages, verify_images
from yolo.data.location import ARRAYS, INDEX, Shard, ShardIndex
from yolo.data.open import load_split
from yolo.data.plausibility import warn_of_split
from yolo.data.progress_protocol import ProgressFactory, no_progress
from yolo.data.shards.reader import ANNOTATION, annotation_of
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_IMAGE_BYTES, read_bytes
from yolo.recipe.resolve.hardware import count_cores
from yolo.recipe.schema.recipe import Recipe

MB = 10**6
MAX_SHAPES = 100_000
"""Boxes whose shape is stored for the anchors' k-means, which needs no more."""


def shard_split(
    recipe: Recipe,
    split: str,
    out: Path,
    shard_mb: float,
    shards: int | None = None,
    progress: ProgressFactory = no_progress,
) -> tuple[ShardIndex, list[str]]:
    """Write a split of a recipe's data into the folder `out / split`, completely or not at all.

    Images are shuffled by `train.seed` and distributed over `shards` shards, or over as many as give each about
    `shard_mb` MB; image counts differ by at most one. Images that cannot be read are skipped. Returns the index, and the
    problems as lines. Raises DataError if the folder exists, or if more is wrong than `data.max_bad_share` allows.
    """
    folder = out / split
    if folder.exists():
        raise DataError(f"{folder}: is there already; remove it, or name another folder")
    if recipe.data.format == "shards":
        raise DataError(
            "data.format: is shards already; name a recipe whose data are coco, yolo or voc"
        )
    dataset = load_split(recipe.data, split)
    images = ResizedImages(dataset.records, recipe.model.image_size, None)
    with progress(f"verifying {split} images", len(images)) as advance:
        dataset = dataset.without(verify_images(images, threads=count_cores(), advance=advance))
    refuse_if_bad(dataset.report, recipe.data.max_bad_share)
    warn_of_split(
        dataset, recipe.model.image_size
    )  # while all boxes are read: training sees one shard at a time
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
        index = _write(dataset, split, temporary, shards, recipe.train.seed, progress)
        temporary.chmod(0o755)  # readable by other users
        temporary.rename(folder)
    finally:
        rmtree(temporary, ignore_errors=True)
    return index, dataset.report.lines()


def _write(
    dataset: DetectionDataset,
    split: str,
    folder: Path,
    shards: int,
    seed: int,
    progress: ProgressFactory,
) -> ShardIndex:
    random = np.random.default_rng(seed)
    parts = np.array_split(random.permutation(len(dataset)), shards)
    entries, offsets = [], []
    with progress(f"writing {split} images", len(dataset)) as advance:
        for number, part in enumerate(parts):
            path = folder / f"{split}-{number:06d}.tar"
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for position in part.tolist():
                    offsets.append(tar.offset)
                    _add_sample(tar, dataset, position)
                    advance(1)
                offsets.append(tar.offset)
            entries.append(Shard(name=path.name, samples=len(part), bytes=path.stat().st_size))
    shapes = dataset.box_shapes(1)
    if len(shapes) > MAX_SHAPES:
        shapes = shapes[np.sort(random.choice(len(shapes), MAX_SHAPES, replace=False))]
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


def _add_sample(tar: tarfile.TarFile, dataset: DetectionDataset, position: int) -> None:
    record = dataset.records[position]
    suffix = record.path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:  # a suffix `.json` would replace the annotations
        suffix = ".image"
    image = read_bytes(record.path, MOST_IMAGE_BYTES)
    files = {suffix: image, f".{ANNOTATION}": annotation_of(record, position)}
    for ending, content in sorted(files.items()):
        entry = tarfile.TarInfo(f"{position:012d}{ending}")
        entry.size, entry.mode = len(content), 0o444
        entry.uname = entry.gname = "bigdata"  # webdataset's, so that rewritten shards are equal
        tar.addfile(entry, io.BytesIO(content))


def shards_line(index: ShardIndex, folder: Path, problems: Sequence[str]) -> list[str]:
    """What was written, as lines for the console."""
    sizes = [shard.bytes / MB for shard in index.shards]
    written = (
        f"{folder}: {index.images} images, {index.boxes} boxes of {len(index.class_names)} classes in "
        f"{len(sizes)} shards, {sum(sizes):.1f} MB, the largest {max(sizes):.1f} MB"
    )
    return [*(f"warning: {line}" for line in problems), written]
