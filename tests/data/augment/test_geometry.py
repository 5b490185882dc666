"""Boxes follow the pixels: a coloured rectangle is altered and found again."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo.data.augment.geometry import Labelled, View, compose
from yolo.data.augment.pipeline import HSVJitter, blend, flip, mosaic, random_view
from yolo.data.image.letterbox import Letterbox, letterbox
from yolo.data.image.resized import Tile
from yolo.recipe.schema.data import AUGMENTATION_PRESETS
from yolo.recipe.schema.recipe import ResolvedAugmentation

NONE = AUGMENTATION_PRESETS["none"]
SIZE = 128


def rectangle(box: tuple[int, int, int, int], width: int = SIZE, height: int = SIZE) -> Labelled:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = 255
    return Labelled(image, np.array([box], dtype=np.float32), np.array([2]))


def tile_of(labelled: Labelled) -> Tile:
    rows, columns = labelled.image.shape[:2]
    return Tile(lambda: labelled.image, rows, columns, labelled.boxes, labelled.classes)


def square_of(size: int) -> np.ndarray:
    """With something on it already, as a sample before might have left."""
    return np.full((size, size, 3), 255, np.uint8)


def warp(
    labelled: Labelled, settings_: ResolvedAugmentation, random: np.random.Generator
) -> Labelled:
    view = random_view(SIZE, SIZE, settings_, random)
    return compose([tile_of(labelled)], view, square_of(SIZE))


def boxes_into(where: Letterbox, boxes: np.ndarray) -> np.ndarray:
    return boxes * where.scale + np.array([where.left, where.top] * 2, dtype=np.float32)


def found_in(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image[..., 0] > 200)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


boxes = st.tuples(
    st.integers(20, 50), st.integers(20, 50), st.integers(70, 105), st.integers(70, 105)
)


@settings(deadline=None)
@given(
    box=boxes,
    seed=st.integers(0, 2**32),
    scale=st.floats(0, 0.4),
    translate=st.floats(0, 0.05),
    degrees=st.sampled_from([0.0, 90.0]),
)
def test_a_warped_box_lies_around_its_pixels(
    box: tuple[int, int, int, int], seed: int, scale: float, translate: float, degrees: float
) -> None:
    values = NONE | {"scale": scale, "translate": translate}
    moved = warp(rectangle(box), ResolvedAugmentation(**values), np.random.default_rng(seed))
    np.testing.assert_allclose(moved.boxes[0], found_in(moved.image), atol=2.0)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    degrees=st.floats(0, 45),
    shear=st.floats(0, 10),
    bend=st.floats(0, 0.0005),
)
def test_a_turned_box_holds_all_its_pixels(
    seed: int, degrees: float, shear: float, bend: float
) -> None:
    values = NONE | {"degrees": degrees, "shear": shear, "perspective": bend}
    random = np.random.default_rng(seed)
    moved = warp(rectangle((48, 48, 80, 80)), ResolvedAugmentation(**values), random)
    seen, box = found_in(moved.image), moved.boxes[0]
    assert (box[:2] <= seen[:2] + 1.5).all()
    assert (box[2:] >= seen[2:] - 1.5).all()


@pytest.mark.parametrize(("flipud", "fliplr"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_flipped_box_lies_on_its_pixels(flipud: float, fliplr: float) -> None:
    settings_ = ResolvedAugmentation(**(NONE | {"flipud": flipud, "fliplr": fliplr}))
    labelled = rectangle((10, 20, 40, 60))
    boxes = flip(labelled.image, labelled.boxes, settings_, np.random.default_rng(0))
    np.testing.assert_array_equal(boxes[0], found_in(labelled.image))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), which=st.integers(0, 3))
def test_a_box_in_a_mosaic_lies_on_its_tiles_pixels(seed: int, which: int) -> None:
    empty = Labelled(
        np.zeros((96, SIZE, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    )
    tiles = [empty] * 4
    tiles[which] = rectangle((20, 20, 100, 80), SIZE, 96)
    placed = mosaic([tile_of(tile) for tile in tiles], SIZE, np.random.default_rng(seed))
    canvas = compose(placed, View(2 * SIZE, np.eye(3), 1.0, 2 * SIZE), square_of(2 * SIZE))
    assert canvas.image.shape == (2 * SIZE, 2 * SIZE, 3)
    if len(canvas.boxes):
        np.testing.assert_allclose(canvas.boxes[0], found_in(canvas.image), atol=1.0)


@settings(deadline=None)
@given(width=st.integers(3, 300), height=st.integers(3, 300), seed=st.integers(0, 2**32))
def test_letterboxing_there_and_back_leaves_a_box_where_it_was(
    width: int, height: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 1, (5, 2, 2)), axis=1).reshape(5, 4)
    placed = corners * np.array([width, height, width, height])
    square, where = letterbox(np.zeros((height, width, 3), np.uint8), 64)
    assert square.shape == (64, 64, 3)
    inside = boxes_into(where, placed)
    assert inside.min() >= -1 and inside.max() <= 65
    np.testing.assert_allclose(where.boxes_back(inside), placed, atol=1e-3 * max(width, height))


def test_a_letterboxed_box_lies_on_its_pixels() -> None:
    labelled = rectangle((40, 20, 160, 80), 200, 100)
    square, where = letterbox(labelled.image, SIZE)
    np.testing.assert_allclose(boxes_into(where, labelled.boxes)[0], found_in(square), atol=1.0)


def test_a_box_that_is_hardly_visible_any_more_is_dropped() -> None:
    labelled = Labelled(
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.array([[0, 0, 1.5, 60], [0, 0, 60, 60]], dtype=np.float32),
        np.array([0, 1]),
    )
    kept = warp(labelled, ResolvedAugmentation(**NONE), np.random.default_rng(0))
    assert kept.classes.tolist() == [1]


@pytest.mark.parametrize(("share", "is_kept"), [(0.05, False), (0.2, True)])
def test_of_a_box_a_tenth_must_be_left(share: float, is_kept: bool) -> None:
    """The view shows the first of two boxes from a column on."""
    labelled = Labelled(
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.array([[0, 20, 60, 80], [70, 20, 90, 80]], dtype=np.float32),
        np.array([0, 1]),
    )
    shift = np.array([[1.0, 0, -60 * (1 - share)], [0, 1, 0], [0, 0, 1]])
    seen = compose([tile_of(labelled)], View(SIZE, shift, 1.0, SIZE), square_of(SIZE))
    assert seen.classes.tolist() == ([0, 1] if is_kept else [1])


def recoloured(jitter: HSVJitter, image: np.ndarray) -> np.ndarray:
    out = np.empty_like(image)
    jitter.apply(image.copy(), out)
    return out


def test_without_reach_colours_stay() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    out = recoloured(
        HSVJitter.random(ResolvedAugmentation(**NONE), np.random.default_rng(0)), image
    )
    np.testing.assert_array_equal(out, image[..., ::-1])


@pytest.mark.parametrize("seed", range(6))
def test_colours_change_as_hue_saturation_and_value_do(seed: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    settings_ = ResolvedAugmentation(**(NONE | {"hsv_h": 0.4, "hsv_s": 0.7, "hsv_v": 0.4}))
    out = recoloured(HSVJitter.random(settings_, np.random.default_rng(seed)), image)
    gains = 1 + np.random.default_rng(seed).uniform(-1, 1, 3) * (0.4, 0.7, 0.4)
    for before, after in zip(image.reshape(-1, 3), out.reshape(-1, 3), strict=True):
        blue, green, red = before / 255
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        if hue * 180 > 179.5:
            continue  # red, which is also at 0
        turned = hue * gains[0] % 1, min(saturation * gains[1], 1), min(value * gains[2], 1)
        # OpenCV's hue has 180 steps, and all three are rounded to whole numbers.
        np.testing.assert_allclose(after / 255, colorsys.hsv_to_rgb(*turned), atol=0.04)


def test_mixup_keeps_the_boxes_of_both() -> None:
    one, other = rectangle((10, 10, 40, 40)), rectangle((60, 60, 90, 90))
    mixed = blend(one, other, np.random.default_rng(0))
    assert mixed.boxes.tolist() == [[10, 10, 40, 40], [60, 60, 90, 90]]
    assert 60 < mixed.image[20, 20, 0] < 195 and 60 < mixed.image[70, 70, 0] < 195
