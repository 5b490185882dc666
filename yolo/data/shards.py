"""A split in shards: what is known of it before an image is read, and its samples one after the other."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander

from yolo.data.dataset import DataReport, ImageRecord
from yolo.data.shard_store import ANEW, ShardStore
from yolo.errors import DataError
from yolo.recipe.sections.data import DataSection
from yolo.recipe.shard_index import ARRAYS, INDEX, ShardIndex, parse_index, shard_location

ANNOTATION = "json"
"""The suffix of a sample's annotations in a tar; the other file is its image, as it was."""


@dataclass(frozen=True, slots=True)
class StoredSample:
    """An image file's bytes, and its boxes."""

    record: ImageRecord
    """Its path is where it lies: the shard, and the file's name in it."""
    content: bytes
    position: int
    """In the split before it was shuffled."""


@dataclass(frozen=True, slots=True)
class Shards:
    """A split whose images are read from tar files when they are needed."""

    store: ShardStore
    index: ShardIndex
    offsets: tuple[np.ndarray, ...]
    """Of each shard (samples + 1,) int64: the byte at which each sample begins, and the end of the last."""
    shapes: np.ndarray
    """(M, 2) float32: widths and heights of some boxes as shares of their image's long side, crowds left out."""
    report: DataReport = field(init=False)
    """What was wrong was reported, and left out, when the shards were written."""

    def __post_init__(self) -> None:
        report = DataReport(self.source, self.index.images, self.index.boxes)
        object.__setattr__(self, "report", report)

    def __len__(self) -> int:
        """Images."""
        return self.index.images

    @property
    def source(self) -> str:
        """Where it was read from."""
        return self.store.place(INDEX)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the network's order."""
        return self.index.class_names

    @property
    def box_count(self) -> int:
        """Boxes of single objects: those that are trained on."""
        return self.index.boxes

    @property
    def fingerprint(self) -> str:
        """Equal where the images, their order and their boxes are."""
        return self.index.fingerprint

    def box_shapes(self, size: int) -> np.ndarray:
        """Widths and heights (M, 2) of boxes, in pixels where the image's long side has `size`; of many boxes some."""
        return self.shapes * np.float32(size)

    def samples(
        self,
        shard: int,
        first: int = 0,
        stop: int | None = None,
        count_bytes: Callable[[int], None] = lambda count: None,
    ) -> Iterator[StoredSample]:
        """The samples `first` to `stop` of a shard, in its order; no others are read.

        `count_bytes` is told of bytes as they are read. Raises DataError naming the shard.
        """
        entry, offsets = self.index.shards[shard], self.offsets[shard]
        stop = entry.samples if stop is None else stop
        place = self.store.place(entry.name)
        found = counted = 0
        try:
            with self.store.open(entry.name, int(offsets[first]), int(offsets[stop])) as part:
                files = tar_file_expander([{"url": place, "stream": part}])
                for raw in group_by_keys(files):
                    found += 1
                    count_bytes(part.bytes_read - counted)
                    counted = part.bytes_read
                    yield _sample(raw, place)
        except (DataError, tarfile.TarError, KeyError, TypeError, ValueError) as error:
            said = str(error.args[0]).split(" @ ")[
                0
            ]  # webdataset adds the stream as it stands in memory
            if isinstance(error, DataError):
                raise DataError(said) from error
            raise DataError(f"{place}: is damaged: {said}; {ANEW}") from error
        if found != stop - first:
            raise DataError(
                f"{place}: ends after sample {first + found} of {entry.samples}; {ANEW}"
            )


def open_shards(section: DataSection, split: str) -> Shards:
    """The shards that a recipe's `data` section names. Raises DataError where they are none."""
    store = ShardStore(shard_location(section, split))
    index = parse_index(store.read(INDEX), store.place(INDEX))
    place = store.place(ARRAYS)
    try:
        with np.load(io.BytesIO(store.read(ARRAYS)), allow_pickle=False) as arrays:
            offsets, shapes = arrays["offsets"], arrays["shapes"]
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{place}: cannot be read: {error}; {ANEW}") from error
    ends = np.cumsum([shard.samples + 1 for shard in index.shards])
    if offsets.shape != (ends[-1],) or shapes.ndim != 2:
        raise DataError(f"{place}: does not belong to the {INDEX} beside it; {ANEW}")
    return Shards(store, index, tuple(np.split(offsets, ends[:-1])), shapes)


def annotation_of(record: ImageRecord, position: int) -> bytes:
    """A sample's JSON."""
    content = {
        "image_id": record.image_id,
        "file_name": record.path.name,
        "position": position,
        "width": record.width,
        "height": record.height,
        "boxes": record.boxes.tolist(),
        "classes": record.classes.tolist(),
        "crowd": record.crowd.tolist(),
        "areas": record.areas.tolist(),
    }
    return json.dumps(content).encode()


def record_of(content: dict[str, Any], path: Path) -> ImageRecord:
    """What `annotation_of` wrote, of an image that now lies at `path`; KeyError, TypeError or ValueError where it did not."""
    return ImageRecord(
        content["image_id"],
        path,
        int(content["width"]),
        int(content["height"]),
        np.array(content["boxes"], dtype=np.float32).reshape(-1, 4),
        np.array(content["classes"], dtype=np.int64),
        np.array(content["crowd"], dtype=bool),
        np.array(content["areas"], dtype=np.float32),
    )


def _sample(raw: dict[str, Any], place: str) -> StoredSample:
    [suffix] = [key for key in raw if not key.startswith("__") and key != ANNOTATION]
    content = json.loads(raw[ANNOTATION])
    path = Path(f"{place}/{content['file_name']}")
    return StoredSample(record_of(content, path), raw[suffix], content["position"])
