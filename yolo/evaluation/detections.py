"""The two sides of an evaluation: the detections and the ground truth."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from yolo.data.dataset import DetectionDataset, ImageRecord


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """A network's detections in one image."""

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
        """The detections with a score of at least `confidence`."""
        return self._at(self.scores >= confidence)

    def of_classes(self, classes: Sequence[int]) -> "Detections":
        """The detections of some classes."""
        return self._at(np.isin(self.classes, classes))

    def ordered(self) -> "Detections":
        """By descending score; the order of ties depends only on the boxes."""
        left, top, right, bottom = self.boxes.T
        return self._at(np.lexsort((bottom, right, top, left, self.classes, -self.scores)))

    def _at(self, which: np.ndarray) -> "Detections":
        return Detections(self.image_id, self.boxes[which], self.scores[which], self.classes[which])


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """The ground truth of a data set, in ascending order of the image ids."""

    class_names: tuple[str, ...]
    images: tuple[ImageRecord, ...]

    @classmethod
    def of(cls, dataset: DetectionDataset) -> "GroundTruth":
        """The boxes of a data set."""
        images = sorted(dataset.records, key=lambda image: image.image_id)
        return cls(dataset.class_names, tuple(images))

    def only(self, image_ids: Collection[int]) -> "GroundTruth":
        """Some of the images."""
        chosen = tuple(image for image in self.images if image.image_id in image_ids)
        return GroundTruth(self.class_names, chosen)


def merge(parts: Iterable[Sequence[Detections]], truth: GroundTruth) -> tuple[Detections, ...]:
    """All ranks' detections in the order of the truth's images, each image's `ordered`.

    The result does not depend on how the images were shared. ValueError for an image that no rank evaluated, that was
    evaluated twice, or that the truth lacks.
    """
    images = [found for part in parts for found in part]
    by_image = {found.image_id: found for found in images}
    expected = [image.image_id for image in truth.images]
    if len(images) > len(by_image):
        raise ValueError(
            f"{len(images) - len(by_image)} images were evaluated more than once: expected each on one rank"
        )
    if by_image.keys() != set(expected):
        missing = sorted(set(expected) - by_image.keys())
        unknown = sorted(by_image.keys() - set(expected))
        raise ValueError(
            f"{len(missing)} images of the truth were not evaluated (ids {missing[:5]}), "
            f"{len(unknown)} evaluated images are not in it (ids {unknown[:5]}): expected each image on one rank"
        )
    return tuple(by_image[image_id].ordered() for image_id in expected)
