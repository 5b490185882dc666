"""The data of a run: all ranks read and verify both splits together, and fit the anchors."""

import logging
from dataclasses import dataclass

from yolo.architecture import Anchors, family
from yolo.data.dataset import (
    DetectionDataset,
    refuse_if_bad,
    refuse_if_classes_differ,
    refuse_without_boxes,
    write_report,
)
from yolo.data.image.resized import EvaluationImages, Problems, ResizedImages, verify_images
from yolo.data.location import shard_location, too_few
from yolo.data.open import load_split
from yolo.data.plausibility import warn_of_splits
from yolo.data.progress_protocol import ProgressFactory
from yolo.data.shards.reader import Shards, open_shards, read_unpacked, unpack
from yolo.errors import DataError
from yolo.model.anchors import choose_anchors
from yolo.recipe.resolve.hardware import count_cores
from yolo.recipe.schema.recipe import Recipe
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext, all_gather_object, broadcast_object
from yolo.training.loop.dataset_cache import cache_folder, open_cache

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Datasets:
    """Both splits without their bad images, and the anchors."""

    train: DetectionDataset | Shards
    val: DetectionDataset
    train_images: ResizedImages | Shards
    val_images: ResizedImages
    anchors: Anchors

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the network's order."""
        return self.train.class_names


def open_datasets(
    recipe: Recipe,
    run: RunDirectory,
    context: DistributedContext,
    counting: ProgressFactory,
) -> Datasets:
    """Read both splits, verify every image, and choose the anchors; collective.

    Raises DataError on all ranks if too much of a split cannot be used.
    """
    train: DetectionDataset | Shards
    train_images: ResizedImages | Shards
    if recipe.data.format == "shards":
        train = train_images = _streamed(recipe, context)
    else:
        train, train_images = _verified(recipe, "train", context, counting)
    val, val_images = _verified(recipe, "val", context, counting)
    reports = [train.report, val.report]
    if context.is_main:
        read = train if isinstance(train, DetectionDataset) else None
        warn_of_splits(read, val, recipe.model.image_size)
        write_report(reports, run.data_report)
    for report in reports:
        for line in report.warnings:
            logger.warning("data: %s", line)
        for line in report.counted_lines():
            logger.info("data: %s", line)
        refuse_if_bad(report, recipe.data.max_bad_share, run.data_report)
    refuse_if_classes_differ(train.class_names, train.source, val)
    refuse_without_boxes(train.source, train.box_count, train.report)
    logger.info(
        f"data: {len(train)} training and {len(val.records)} validation images, "
        f"{train.box_count} and {val.box_count} boxes of {len(train.class_names)} classes{_crowds(train, val)}"
    )
    # Chosen by the main rank for all: k-means may round differently on another machine.
    own = chosen_anchors(recipe, train) if context.is_main else None
    anchors, reason = broadcast_object(context, own)
    if reason:
        logger.info(reason)
    return Datasets(train, val, train_images, val_images, anchors)


def _crowds(*splits: DetectionDataset | Shards) -> str:
    """How many boxes are not trained on; an index of shards does not count them."""
    counts = [split.crowd_count for split in splits if isinstance(split, DetectionDataset)]
    return f", {' and '.join(map(str, counts))} crowd boxes" if any(counts) else ""


def _streamed(recipe: Recipe, context: DistributedContext) -> Shards:
    """The training split's shards; only their index is read yet."""
    shards = open_shards(recipe.data, "train")
    place = shard_location(recipe.data, "train")
    for concern in too_few(shards.index, place, recipe):
        raise DataError(concern)
    _refuse_if_different(shards, context)
    return shards


def _unpacked(
    recipe: Recipe, split: str, context: DistributedContext, counting: ProgressFactory
) -> DetectionDataset:
    """A split's shards as files, fetched by the first rank of each machine."""
    shards = open_shards(recipe.data, split)
    folder = cache_folder(recipe) / f"{shards.fingerprint[:16]}-files"
    problem = None
    if context.local_rank == 0:
        try:
            unpack(shards, folder, counting)
        except (DataError, OSError) as error:
            problem = str(error)
    for found in all_gather_object(context, problem):
        if found is not None:
            raise DataError(found)
    return read_unpacked(folder, shards)


def _refuse_if_different(split: DetectionDataset | Shards, context: DistributedContext) -> None:
    read = all_gather_object(context, split.fingerprint)
    others = [rank for rank, fingerprint in enumerate(read) if fingerprint != read[0]]
    if others:
        raise DataError(
            f"{split.source}: ranks {others} read other images or boxes in it than rank 0; "
            "every machine needs the same copy"
        )


def _verified(
    recipe: Recipe,
    split: str,
    context: DistributedContext,
    counting: ProgressFactory,
) -> tuple[DetectionDataset, ResizedImages]:
    if recipe.data.format == "shards":
        dataset = _unpacked(recipe, split, context, counting)
    else:
        dataset = load_split(recipe.data, split)
    _refuse_if_different(dataset, context)
    cache = open_cache(dataset, split, recipe, context)
    size = recipe.model.image_size
    kind = ResizedImages if split == "train" else EvaluationImages
    images = kind(dataset.records, size, cache)
    threads = max(1, count_cores() // context.local_world_size)
    share = len(range(context.rank, len(images), context.world_size))
    problems: Problems = {}
    with counting(f"verifying {split} images", share) as advance:
        mine = verify_images(images, context.rank, context.world_size, threads, advance)
    for found in all_gather_object(context, mine):
        problems |= found
    valid = dataset.without(problems)
    return valid, kind(valid.records, size, cache)


def chosen_anchors(recipe: Recipe, train: DetectionDataset | Shards) -> tuple[Anchors, str]:
    """The anchors of the recipe, and how they were chosen: a line, empty if the recipe lists them."""
    model = recipe.model
    if model.anchors == "default":
        return family(model.variant).anchors, ""
    if model.anchors == "auto":
        shapes, size = train.box_shapes(model.image_size), model.image_size
        threshold, seed = model.anchor_threshold, recipe.train.seed
        choice = choose_anchors(shapes, model.variant, size, threshold, seed)
        fitted = tuple(tuple((w, h) for w, h in level) for level in choice.anchors.tolist())
        return fitted, f"anchors: {choice.reason}"
    return model.anchors, ""
