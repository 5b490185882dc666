"""Reading every image once before training, so that a bad one is known by name and not met at hour three."""

from concurrent.futures import ThreadPoolExecutor

from yolo.data.dataset import Problem
from yolo.data.image.decode import UnusableImage
from yolo.data.image.resized import ResizedImages
from yolo.data.progress_protocol import Advance

Problems = dict[int, tuple[Problem, str]]
"""Index of a record -> what is wrong with its image, and an example for the report."""


def verify_images(
    images: ResizedImages,
    rank: int = 0,
    world_size: int = 1,
    threads: int = 2,
    advance: Advance = lambda images: None,
) -> Problems:
    """Decode the images of one rank's share (every `world_size`-th) and say which cannot be used.

    Where images are kept, those that are sound are kept from then on, and those kept already are not decoded again.
    `advance` is told after each image that it was one. Put the ranks' answers together for `DetectionDataset.without`.
    """
    indices = range(rank, len(images), world_size)

    def check(index: int) -> tuple[int, UnusableImage | None]:
        try:
            images[index]
        except UnusableImage as error:
            return index, error
        return index, None

    problems: Problems = {}
    with ThreadPoolExecutor(threads) as pool:
        for index, error in pool.map(check, indices):
            if error is not None:
                problems[index] = (error.problem, str(error))
            advance(1)
    return problems
