"""Shards of the demo set, written and opened."""

import functools
import operator
from pathlib import Path

import torch

from tests.conftest import REPOSITORY
from yolo.data.loader.samples import TrainingBatch
from yolo.data.shards.reader import Shards, StoredSample, open_shards
from yolo.data.shards.stream import StreamingLoader, training_loader
from yolo.data.shards.writer import shard_split
from yolo.recipe import Recipe, prepare

DEMO = REPOSITORY / "recipes" / "demo.yaml"
IMAGES = 23
SHARDS = 6


def write(demo: Path, out: Path, split: str, shards: int, *overrides: str) -> list[str]:
    recipe = prepare(DEMO, [f"data.root={demo}", *overrides], 1).resolved.recipe
    return shard_split(recipe, split, out, 256, shards)[1]


def recipe_for(root: object, *overrides: str, world_size: int = 1) -> Recipe:
    shards = ("data.format=shards", f"data.root={root}", "data.train=train", "data.val=val")
    sizes = ("model.image_size=64", "train.global_batch=4", "data.shuffle_buffer=5")
    augmented = ("data.augmentation.mosaic=0.7", "data.augmentation.mixup=0.5")
    common = (*shards, *sizes, *augmented, "data.workers=0")
    return prepare(DEMO, [*common, *overrides], world_size).resolved.recipe


def loader_for(
    root: object, *overrides: str, rank: int = 0, world_size: int = 1
) -> StreamingLoader:
    recipe = recipe_for(root, *overrides, world_size=world_size)
    loader = training_loader(open_shards(recipe.data, "train"), recipe, rank, world_size)
    assert isinstance(loader, StreamingLoader)
    return loader


def opened(root: object) -> Shards:
    return open_shards(recipe_for(root).data, "train")


def all_samples(shards: Shards) -> list[StoredSample]:
    numbers = range(len(shards.index.shards))
    return functools.reduce(operator.iadd, (list(shards.samples(n)) for n in numbers), [])


def assert_same(one: list[list[TrainingBatch]], two: list[list[TrainingBatch]]) -> None:
    assert len(one) == len(two)
    for step, other in zip(one, two, strict=True):
        for batch, same in zip(step, other, strict=True):
            assert torch.equal(batch.images, same.images)
            assert torch.equal(batch.targets, same.targets)
