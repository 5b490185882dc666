"""Decode every image once before training, so that bad images are reported at the start instead of hours later."""

from concurrent.futures import ThreadPoolExecutor

from yolo.data.dataset import Problem
from yolo.data.image.decode import UnusableImage
from yolo.data.image.resized import ResizedImages
from yolo.data.progress_protocol import ProgressCallback

Problems = dict[int, tuple[Problem, str]]
"""Index of a record -> what is wrong with its image, and an example for the report."""


def verify_images(
    images: ResizedImages,
    rank: int = 0,
    world_size: int = 1,
    threads: int = 2,
    advance: ProgressCallback = lambda images: None,
) -> Problems:
    """Decode every `world_size`-th image, starting at `rank`; returns those that cannot be used.

    Fills the images' cache, if they have one; cached images are not decoded again. `advance` is called after each
    image. Merge the results of all ranks for `DetectionDataset.without`.
    """

    def check(index: int) -> UnusableImage | None:
        try:
            images[index]
        except UnusableImage as error:
            return error
        return None

    indices = range(rank, len(images), world_size)
    problems: Problems = {}
    with ThreadPoolExecutor(threads) as pool:
        for index, error in zip(indices, pool.map(check, indices), strict=True):
            if error is not None:
                problems[index] = (error.problem, str(error))
            advance(1)
    return problems
