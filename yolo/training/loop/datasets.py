"""The data of a run: both splits read and verified by all ranks together, and the anchors that fit them."""

from collections.abc import Callable
from dataclasses import dataclass

from yolo.architecture import Anchors, family
from yolo.data.dataset import DetectionDataset, refuse_if_bad, write_report
from yolo.data.image.resized import ResizedImages
from yolo.data.open import load_split
from yolo.data.progress_protocol import ProgressFactory
from yolo.data.shards.index import shard_location, too_few
from yolo.data.shards.reader import Shards, open_shards
from yolo.data.shards.unpack import read_unpacked, unpack
from yolo.data.verification import Problems, verify_images
from yolo.errors import DataError
from yolo.model.anchors import choose_anchors
from yolo.recipe.resolve.hardware import count_cores
from yolo.recipe.schema.recipe import Recipe
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext, all_gather_object, broadcast_object
from yolo.training.loop.dataset_cache import cache_folder, open_cache

SHARE_OF_CACHE = {"train": 0.8, "val": 0.2}
"""COCO's validation split has a twentieth of the images, but is read at every evaluation."""


@dataclass(frozen=True, slots=True)
class Datasets:
    """Both splits, bad images left out, and the anchors."""

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
    ranks: DistributedContext,
    tell: Callable[[str], None],
    counting: ProgressFactory,
) -> Datasets:
    """Read both splits, verify every image, and settle the anchors; collective.

    Raises DataError on all ranks where too much of a split cannot be used.
    """
    train: DetectionDataset | Shards
    train_images: ResizedImages | Shards
    if recipe.data.format == "shards":
        train = train_images = _streamed(recipe, ranks)
    else:
        train, train_images = _verified(recipe, "train", ranks, tell, counting)
    val, val_images = _verified(recipe, "val", ranks, tell, counting)
    reports = [train.report, val.report]
    if ranks.is_main:
        write_report(reports, run.data_report)
    for report in reports:
        for line in report.lines():
            tell(f"data: {line}")
        refuse_if_bad(report, recipe.data.max_bad_share, run.data_report)
    if train.class_names != val.class_names:
        raise DataError(
            f"{val.source}: its classes {list(val.class_names)} are not those of {train.source}: "
            f"{list(train.class_names)}"
        )
    if train.box_count == 0:
        raise DataError(
            "\n  ".join([f"{train.source}: no box to learn from", *train.report.lines()])
        )
    tell(
        f"data: {len(train)} training and {len(val.records)} validation images, "
        f"{train.box_count} and {val.box_count} boxes of {len(train.class_names)} classes"
    )
    # By the first rank for all: k-means may round differently on another machine.
    own = settled_anchors(recipe, train) if ranks.is_main else None
    anchors, reason = broadcast_object(ranks, own)
    if reason:
        tell(reason)
    return Datasets(train, val, train_images, val_images, anchors)


def _streamed(recipe: Recipe, ranks: DistributedContext) -> Shards:
    """The training split's shards, of which nothing but the index is read yet."""
    shards = open_shards(recipe.data, "train")
    place = shard_location(recipe.data, "train")
    for concern in too_few(shards.index, place, recipe, ranks.world_size):
        raise DataError(concern)
    _refuse_if_different(shards, ranks)
    return shards


def _unpacked(
    recipe: Recipe, split: str, ranks: DistributedContext, counting: ProgressFactory
) -> DetectionDataset:
    """A split's shards as files, fetched by the first rank of each machine."""
    shards = open_shards(recipe.data, split)
    folder = cache_folder(recipe) / f"{shards.fingerprint[:16]}-files"
    problem = None
    if ranks.local_rank == 0:
        try:
            unpack(shards, folder, counting)
        except (DataError, OSError) as error:
            problem = str(error)
    for found in all_gather_object(ranks, problem):
        if found is not None:
            raise DataError(found)
    return read_unpacked(folder, shards)


def _refuse_if_different(split: DetectionDataset | Shards, ranks: DistributedContext) -> None:
    read = all_gather_object(ranks, split.fingerprint)
    others = [rank for rank, fingerprint in enumerate(read) if fingerprint != read[0]]
    if others:
        raise DataError(
            f"{split.source}: ranks {others} read other images or boxes in it than rank 0; "
            "every machine needs the same copy"
        )


def _verified(
    recipe: Recipe,
    split: str,
    ranks: DistributedContext,
    tell: Callable[[str], None],
    counting: ProgressFactory,
) -> tuple[DetectionDataset, ResizedImages]:
    if recipe.data.format == "shards":
        dataset = _unpacked(recipe, split, ranks, counting)
    else:
        dataset = load_split(recipe.data, split)
    _refuse_if_different(dataset, ranks)
    kept = open_cache(dataset, SHARE_OF_CACHE[split], recipe, ranks, tell)
    size = recipe.model.image_size
    images = ResizedImages(dataset.records, size, kept)
    threads = max(1, count_cores() // ranks.local_world_size)
    share = len(range(ranks.rank, len(images), ranks.world_size))
    problems: Problems = {}
    with counting(f"verifying {split} images", share) as advance:
        mine = verify_images(images, ranks.rank, ranks.world_size, threads, advance)
    for found in all_gather_object(ranks, mine):
        problems |= found
    sound = dataset.without(problems)
    return sound, ResizedImages(sound.records, size, kept)


def settled_anchors(recipe: Recipe, train: DetectionDataset | Shards) -> tuple[Anchors, str]:
    """The anchors that the recipe asks for, and how they were chosen, a line that is empty where it says them itself."""
    if recipe.model.anchors == "default":
        return family(recipe.model.variant).anchors, ""
    if recipe.model.anchors != "auto":
        return recipe.model.anchors, ""
    variant, size = recipe.model.variant, recipe.model.image_size
    shapes = train.box_shapes(size)
    choice = choose_anchors(shapes, variant, size, recipe.model.anchor_threshold, recipe.train.seed)
    anchors: Anchors = tuple(tuple((w, h) for w, h in level) for level in choice.anchors.tolist())
    return anchors, f"anchors: {choice.reason}"
