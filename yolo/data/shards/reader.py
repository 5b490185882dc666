"""A split in shards: what is known of it before an image is read, and its samples one after the other."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from reprlib import repr as shown
from typing import Any

import numpy as np
from webdataset.tariterators import group_by_keys

from yolo.data.dataset import DataReport, ImageRecord
from yolo.data.shards.index import ARRAYS, INDEX, Shard, ShardIndex, parse_index, shard_location
from yolo.data.shards.store import ANEW, RangeReader, ShardStore
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_INDEX_BYTES
from yolo.recipe.plain_text import is_plain
from yolo.recipe.schema.data import DataSection

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
                for raw in group_by_keys(_files(part, place)):
                    found += 1
                    count_bytes(part.bytes_read - counted)
                    counted = part.bytes_read
                    yield self._sample(raw, place)
        except DataError:
            raise
        except Exception as error:  # what damaged bytes lead a tar's reader to is any kind of error
            said = error.args[0] if error.args else type(error).__name__
            raise DataError(f"{place}: is damaged: {said}; {ANEW}") from error
        if found != stop - first:
            raise DataError(
                f"{place}: ends after sample {first + found} of {entry.samples}; {ANEW}"
            )

    def _sample(self, raw: dict[str, Any], place: str) -> StoredSample:
        [suffix] = [key for key in raw if not key.startswith("__") and key != ANNOTATION]
        content = json.loads(raw[ANNOTATION])
        position = content["position"]
        if type(position) is not int or not 0 <= position < len(self):
            raise ValueError(f"position {shown(position)} of {len(self)} images")
        name = PurePath(content["file_name"]).name
        if not is_plain(name):
            raise ValueError(f"{shown(name)} is no file's name")
        path = Path(f"{place}/{name}")
        record = record_of(content, path, len(self.class_names))
        return StoredSample(record, raw[suffix], position)


def open_shards(section: DataSection, split: str) -> Shards:
    """The shards that a recipe's `data` section names. Raises DataError where they are none."""
    store = ShardStore(shard_location(section, split))
    index = parse_index(store.read(INDEX, MOST_INDEX_BYTES), store.place(INDEX))
    offsets, shapes = _arrays(store.read(ARRAYS, MOST_INDEX_BYTES), store.place(ARRAYS))
    ends = np.cumsum([shard.samples + 1 for shard in index.shards])
    by_shard = tuple(np.split(offsets, ends[:-1])) if len(offsets) == ends[-1] else ()
    if not by_shard or not all(map(_are_of, by_shard, index.shards)):
        raise DataError(f"{store.place(ARRAYS)}: does not belong to the {INDEX} beside it; {ANEW}")
    return Shards(store, index, by_shard, shapes)


def _arrays(content: bytes, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and shapes, of the right types. Raises DataError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_INDEX_BYTES:
            raise ValueError(f"it says that unpacked it has {unpacked} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            offsets, shapes = arrays["offsets"], arrays["shapes"]
        if offsets.dtype != np.int64 or offsets.ndim != 1:
            raise ValueError("its offsets are no list of whole numbers")
        if shapes.ndim != 2 or shapes.shape[1] != 2 or not np.isfinite(shapes).all():
            raise ValueError("its shapes are no pairs of numbers")
    except Exception as error:  # as above
        raise DataError(f"{place}: cannot be read: {error}; {ANEW}") from error
    return offsets, shapes


def _are_of(offsets: np.ndarray, shard: Shard) -> bool:
    return bool(offsets[0] >= 0 and (np.diff(offsets) > 0).all() and offsets[-1] <= shard.bytes)


def _files(part: RangeReader, place: str) -> Iterator[dict[str, Any]]:
    """The plain files of a tar, as `group_by_keys` takes them. Compressed or with holes, few bytes could become many."""
    with tarfile.open(fileobj=part, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None:
                raise ValueError(f"{shown(member.name)} is no plain file")
            yield {"fname": member.name, "data": content.read(), "__url__": place}
            tar.members = []  # else the list grows with the shard


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


def record_of(content: dict[str, Any], path: Path, classes: int) -> ImageRecord:
    """What `annotation_of` wrote, of an image that now lies at `path`.

    KeyError, TypeError or ValueError where it did not, or where a box is of none of so many classes.
    """
    image_id, width, height = (content[key] for key in ("image_id", "width", "height"))
    if not all(type(number) is int for number in (image_id, width, height)):
        raise TypeError("image_id, width and height are no whole numbers")
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
        record = ImageRecord(
            image_id,
            path,
            width,
            height,
            np.array(content["boxes"], dtype=np.float32).reshape(-1, 4),
            np.array(content["classes"], dtype=np.int64),
            np.array(content["crowd"], dtype=bool),
            np.array(content["areas"], dtype=np.float32),
        )
    boxes = len(record.boxes)
    if any(each.shape != (boxes,) for each in (record.classes, record.crowd, record.areas)):
        raise ValueError("classes, crowd and areas are not as many as boxes")
    if ((record.classes < 0) | (record.classes >= classes)).any():
        raise ValueError(f"a box of another class than {classes}")
    are_within = (record.boxes >= 0) & (record.boxes <= max(width, height, 1))
    if min(width, height) < 1 or not (are_within.all() and np.isfinite(record.areas).all()):
        raise ValueError("boxes beyond their image")
    return record
