import functools
import operator
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo.data.dataset import DetectionDataset, ImageRecord, Problem, refuse_if_bad
from yolo.data.demo import DemoSettings, generate_demo
from yolo.data.image.cache import ImageCache
from yolo.data.image.resized import ResizedImages, verify_images
from yolo.data.loader.loader import TrainingLoader, evaluation_loader
from yolo.data.loader.sampler import SampleKey, StepSampler, evaluation_indices
from yolo.data.loader.samples import TrainingBatch, TrainingSamples
from yolo.data.open import load_annotated, load_split
from yolo.errors import DataError
from yolo.recipe import Recipe, prepare

DEMO = Path(__file__).parents[3] / "recipes" / "demo.yaml"
SMALL = DemoSettings(train_images=11, val_images=5, size=96)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo"
    assert generate_demo(path, SMALL)
    return path


def recipe_for(root: Path, *overrides: str, world_size: int = 1) -> Recipe:
    common = (f"data.root={root}", "model.image_size=64", "train.global_batch=4")
    augmented = ("data.augmentation.mosaic=0.7", "data.augmentation.mixup=0.5")
    return prepare(DEMO, [*common, *augmented, *overrides], world_size).resolved.recipe


def images_of(dataset: DetectionDataset, recipe: Recipe | None = None) -> ResizedImages:
    """Kept in memory unless the recipe says otherwise."""
    is_kept = recipe is not None and recipe.data.cache == "ram"
    kept = ImageCache.in_memory(dataset.records, 64, 10**9) if is_kept else None
    return ResizedImages(dataset.records, 64, kept)


def samples_of(dataset: DetectionDataset, recipe: Recipe) -> Callable[[SampleKey], TrainingBatch]:
    """Each sample as a batch of its own."""
    samples = TrainingSamples(images_of(dataset, recipe), recipe)
    return lambda key: samples.__getitems__([key])


def batches(dataset: DetectionDataset, recipe: Recipe) -> list[list[list[TrainingBatch]]]:
    loader = TrainingLoader(images_of(dataset, recipe), recipe, 0, 1)
    return [list(loader.epoch(epoch)) for epoch in range(2)]


def test_the_demo_is_drawn_once_and_the_same_again(root: Path, tmp_path: Path) -> None:
    assert not generate_demo(root, SMALL)
    again = tmp_path / "again"
    generate_demo(again, SMALL)
    for file in sorted(path.relative_to(root) for path in root.rglob("*.*")):
        assert (root / file).read_bytes() == (again / file).read_bytes(), file
    (again / "complete.json").unlink()
    assert generate_demo(again, SMALL)


def test_every_shape_of_the_demo_lies_in_its_picture(root: Path) -> None:
    dataset = load_split(recipe_for(root).data, "train")
    assert dataset.class_names == ("circle", "square", "triangle", "star")
    assert dataset.report.lines() == []
    assert verify_images(images_of(dataset)) == {}


def test_a_sample_depends_on_seed_epoch_and_index_alone(root: Path) -> None:
    dataset = load_split(recipe_for(root).data, "train")
    samples = samples_of(dataset, recipe_for(root))
    again = samples_of(dataset, recipe_for(root, "data.cache=none"))
    for key in (SampleKey(0, 3), SampleKey(5, 3), SampleKey(0, 4)):
        assert torch.equal(samples(key).images, again(key).images)
        assert torch.equal(samples(key).targets, again(key).targets)
    assert not torch.equal(samples(SampleKey(0, 3)).images, samples(SampleKey(1, 3)).images)
    other_seed = samples_of(dataset, recipe_for(root, "train.seed=9"))
    assert not torch.equal(samples(SampleKey(0, 3)).images, other_seed(SampleKey(0, 3)).images)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(root: Path, workers: int) -> None:
    dataset = load_split(recipe_for(root).data, "train")
    plain = batches(dataset, recipe_for(root, "data.workers=0"))
    other = batches(dataset, recipe_for(root, f"data.workers={workers}"))
    for one, two in zip(
        functools.reduce(operator.iadd, plain, []),
        functools.reduce(operator.iadd, other, []),
        strict=True,
    ):
        assert torch.equal(one[0].images, two[0].images)
        assert torch.equal(one[0].targets, two[0].targets)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_at_a_step_as_if_it_had_never_stopped(root: Path, workers: int) -> None:
    recipe = recipe_for(root, f"data.workers={workers}")
    dataset = load_split(recipe.data, "train")
    whole = list(TrainingLoader(images_of(dataset), recipe, 0, 1).epoch(1))
    rest = list(TrainingLoader(images_of(dataset), recipe, 0, 1).epoch(1, first_step=1))
    assert len(whole) == 3
    for [one], [two] in zip(whole[1:], rest, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.targets, two.targets)


def test_the_last_epochs_can_be_without_mosaic(root: Path) -> None:
    recipe = recipe_for(
        root,
        *("train.epochs=4", "data.augmentation.preset=none", "data.augmentation.mosaic=1.0"),
        "data.augmentation.scale=0.0",
        *("data.augmentation.mixup=0.0", "data.augmentation.mosaic_off_epochs=1"),
    )
    dataset = load_split(recipe.data, "train")
    samples = samples_of(dataset, recipe)
    whole = samples(SampleKey(3, 0))
    assert len(whole.targets) == len(dataset.records[0].boxes)
    expected = dataset.records[0].boxes / 96
    centres = (expected[:, :2] + expected[:, 2:]) / 2
    np.testing.assert_allclose(whole.targets[:, 2:4].numpy(), centres, atol=1e-5)


@settings(deadline=None)
@given(
    length=st.integers(1, 60),
    share=st.integers(1, 4),
    world_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    epoch=st.integers(0, 9),
)
def test_a_steps_global_batch_is_the_same_however_it_is_shared_out(
    length: int, share: int, world_size: int, accumulation: int, epoch: int
) -> None:
    batch = share * world_size * accumulation
    alone = StepSampler(length, batch, batch, 0, 1, seed=5)
    expected = [[key.image for key in step] for step in alone.micro_batches(epoch)]
    shared: list[list[int]] = [[] for _ in expected]
    for rank in range(world_size):
        sampler = StepSampler(length, batch, share, rank, world_size, seed=5)
        micro = [[key.image for key in keys] for keys in sampler.micro_batches(epoch)]
        assert len(micro) == len(sampler) * accumulation
        for step in range(len(sampler)):
            shared[step] += functools.reduce(
                operator.iadd, micro[step * accumulation : (step + 1) * accumulation], []
            )
    assert shared == expected
    assert set(functools.reduce(operator.iadd, expected, [])) == set(range(length))


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    orders = [
        tuple(StepSampler(20, 4, 4, 0, 1, seed).order(epoch).tolist())
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == len(orders)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(
        ValueError, match="global_batch 10 is no multiple of micro_batch 4 x 2 ranks"
    ):
        StepSampler(20, 10, 4, 0, 2, seed=0)


@given(length=st.integers(0, 200), world_size=st.integers(1, 9))
def test_evaluation_sees_every_image_on_exactly_one_rank(length: int, world_size: int) -> None:
    shares = [list(evaluation_indices(length, rank, world_size)) for rank in range(world_size)]
    assert sorted(functools.reduce(operator.iadd, shares, [])) == list(range(length))


def test_evaluation_batches_hold_every_image_once(root: Path) -> None:
    dataset = load_split(recipe_for(root).data, "val")
    images = ResizedImages(dataset.records, 64, None)
    seen = [
        image_id
        for rank in range(2)
        for batch in evaluation_loader(images, 2, 0, 32, rank, 2)
        for image_id in batch.image_ids
    ]
    assert sorted(seen) == [record.image_id for record in dataset.records]


def test_rectangular_batches_hold_one_shape_and_lead_back_to_the_originals(tmp_path: Path) -> None:
    records = []
    for number, (width, height) in enumerate([(100, 50), (50, 100), (100, 52), (96, 96)]):
        image = np.full((height, width, 3), 10, np.uint8)
        image[height // 2 :, width // 2 :] = 250  # bright in the lower right quarter
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
        box = np.array([[width / 2, height / 2, width, height]], np.float32)
        nothing = np.zeros(1, np.int64)
        records.append(
            ImageRecord(
                number,
                tmp_path / f"{number}.png",
                width,
                height,
                box,
                nothing,
                nothing > 0,
                box[:, 0],
            )
        )
    images = ResizedImages(records, 64, None)
    batches = list(evaluation_loader(images, 8, 0, stride=32))
    shapes = {batch.image_ids: tuple(batch.images.shape[2:]) for batch in batches}
    # 100 x 52 becomes 64 x 33 (W x H), which needs two strides
    assert shapes == {(0,): (32, 64), (1,): (64, 32), (2, 3): (64, 64)}
    for batch in batches:
        for pixels, placed, number in zip(
            batch.images, batch.letterboxes, batch.image_ids, strict=True
        ):
            y, x = (pixels[0] > 200).nonzero(as_tuple=True)
            bright = [[x.min(), y.min(), x.max() + 1, y.max() + 1]]
            back = placed.boxes_back(np.array(bright, np.float32))
            np.testing.assert_allclose(back, records[number].boxes, atol=2.5)
    (square,) = evaluation_loader(images, 8, 0, stride=None)
    assert square.images.shape == (4, 3, 64, 64)


def test_crowds_are_not_trained_on(root: Path) -> None:
    from dataclasses import replace

    dataset = load_split(recipe_for(root).data, "train")
    crowded = replace(
        dataset,
        records=tuple(replace(r, crowd=np.ones(len(r.boxes), bool)) for r in dataset.records),
    )
    samples = samples_of(crowded, recipe_for(root))
    assert sum(len(samples(SampleKey(0, index)).targets) for index in range(5)) == 0


def test_bad_images_are_known_by_name_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "demo"
    generate_demo(path, SMALL)
    (path / "images" / "train-0002.jpg").unlink()
    broken = path / "images" / "train-0005.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    dataset = load_split(recipe_for(path).data, "train")
    problems = verify_images(images_of(dataset), 0, 2) | verify_images(images_of(dataset), 1, 2)
    assert {index: problem for index, (problem, _) in problems.items()} == {
        2: Problem.MISSING_IMAGE,
        5: Problem.CORRUPT_IMAGE,
    }
    kept = dataset.without(problems)
    assert len(kept.records) == 9
    refuse_if_bad(kept.report, 0.2)
    with pytest.raises(DataError, match=r"2 of 11 images cannot be used \(18.2%.*allows 10.0%"):
        refuse_if_bad(kept.report, 0.1)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_during_training_is_named(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "demo"
    generate_demo(path, SMALL)
    recipe = recipe_for(path, f"data.workers={workers}", "data.cache=none")
    dataset = load_split(recipe.data, "train")
    (path / "images" / "train-0003.jpg").unlink()
    with pytest.raises(DataError, match="^[^\n]*train-0003.jpg: No such file[^\n]*$"):
        batches(dataset, recipe)


def test_a_missing_root_says_how_to_set_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; set data.root="):
        load_split(recipe_for(tmp_path / "nowhere").data, "train")


def test_annotations_find_their_images_nearby(root: Path) -> None:
    assert len(load_annotated(root / "annotations" / "instances_val.json").records) == 5


def test_annotations_without_images_say_where_was_looked(root: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "instances_val.json"
    lonely.write_text((root / "annotations" / "instances_val.json").read_text())
    with pytest.raises(DataError, match="its images were not found; looked for the first in"):
        load_annotated(lonely)
