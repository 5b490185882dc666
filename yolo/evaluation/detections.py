"""The two sides of an evaluation in one typed form: what was detected, and what is there."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from yolo.data.dataset import DetectionDataset


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a network sees in one image."""

    image_id: int
    boxes: np.ndarray
    """(K, 4) float32: left, top, right, bottom in pixels of the original image."""
    scores: np.ndarray
    """(K,) float32 in 0..1."""
    classes: np.ndarray
    """(K,) int64: index into the class names."""

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, confidence: float) -> "Detections":
        """Those with a score of at least `confidence`."""
        return self._at(self.scores >= confidence)

    def of_classes(self, classes: Sequence[int]) -> "Detections":
        """Those of some classes."""
        return self._at(np.isin(self.classes, classes))

    def ordered(self) -> "Detections":
        """From the most certain down; ties in an order that depends on the boxes alone."""
        left, top, right, bottom = self.boxes.T
        return self._at(np.lexsort((bottom, right, top, left, self.classes, -self.scores)))

    def _at(self, which: np.ndarray) -> "Detections":
        return Detections(self.image_id, self.boxes[which], self.scores[which], self.classes[which])


@dataclass(frozen=True, slots=True, eq=False)
class ImageTruth:
    """What there is in one image."""

    image_id: int
    boxes: np.ndarray
    """(M, 4) float32: left, top, right, bottom in pixels of the original image."""
    classes: np.ndarray
    """(M,) int64: index into the class names."""
    crowd: np.ndarray
    """(M,) bool: the box holds a crowd, so that detections in it are neither hits nor misses."""
    areas: np.ndarray
    """(M,) float32 square pixels, by which boxes count as small, medium or large."""


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """What there is in each image of a data set, in ascending order of the image ids."""

    class_names: tuple[str, ...]
    images: tuple[ImageTruth, ...]

    @classmethod
    def of(cls, dataset: DetectionDataset) -> "GroundTruth":
        """The boxes of a data set."""
        images = [
            ImageTruth(record.image_id, record.boxes, record.classes, record.crowd, record.areas)
            for record in dataset.records
        ]
        return cls(dataset.class_names, tuple(sorted(images, key=lambda image: image.image_id)))

    def only(self, image_ids: Collection[int]) -> "GroundTruth":
        """Some of the images."""
        chosen = tuple(image for image in self.images if image.image_id in image_ids)
        return GroundTruth(self.class_names, chosen)


def merge(parts: Iterable[Sequence[Detections]], truth: GroundTruth) -> tuple[Detections, ...]:
    """All ranks' detections in the order of the truth's images, each image's in a canonical order.

    The result does not depend on how the images were shared out. ValueError for an image that no rank evaluated, that
    was evaluated twice, or that the truth does not know.
    """
    found_in = [found for part in parts for found in part]
    by_image = {found.image_id: found for found in found_in}
    wanted = [image.image_id for image in truth.images]
    if len(found_in) > len(by_image):
        raise ValueError(
            f"{len(found_in) - len(by_image)} images were evaluated more than once: expected each on one rank"
        )
    if by_image.keys() != set(wanted):
        missing = sorted(set(wanted) - by_image.keys())
        unknown = sorted(by_image.keys() - set(wanted))
        raise ValueError(
            f"{len(missing)} images of the truth were not evaluated (ids {missing[:5]}), "
            f"{len(unknown)} evaluated images are not in it (ids {unknown[:5]}): "
            "expected each image on at least one rank"
        )
    return tuple(by_image[image_id].ordered() for image_id in wanted)
