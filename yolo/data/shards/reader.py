"""A split in shards: its metadata before an image is read, its samples one after the other, or all as files."""

import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath
from reprlib import repr as shown
from shutil import rmtree
from typing import Any

import numpy as np

from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord
from yolo.data.location import ARRAYS, INDEX, Shard, ShardIndex, parse_index, shard_location
from yolo.data.progress_protocol import ProgressFactory, no_progress
from yolo.data.shards.store import REWRITE, RangeReader, ShardStore
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_INDEX_BYTES
from yolo.recipe.plain_text import names_a_file
from yolo.recipe.schema.data import DataSection

ANNOTATION = "json"
"""Suffix of a sample's annotations in a tar file; the sample's other file is its unchanged image file."""
UNPACKED_ANNOTATIONS = "annotations.jsonl"


@dataclass(frozen=True, slots=True)
class StoredSample:
    """An image file's bytes, and its boxes."""

    record: ImageRecord
    """Its path is the shard's, followed by the image file's name."""
    content: bytes
    position: int
    """Index in the split before it was shuffled."""


@dataclass(frozen=True, slots=True)
class Shards:
    """A split whose images are read from tar files when they are needed."""

    store: ShardStore
    index: ShardIndex
    offsets: tuple[np.ndarray, ...]
    """Per shard (samples + 1,) int64: the byte at which each sample begins, and the end of the last."""
    shapes: np.ndarray
    """(M, 2) float32: widths and heights of some boxes as shares of their image's long side, without crowds."""
    report: DataReport
    """Has no problems: they were reported and skipped when the shards were written."""

    def __len__(self) -> int:
        return self.index.images

    @property
    def source(self) -> str:
        """Path, URL or command of the index."""
        return self.report.source

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the network's order."""
        return self.index.class_names

    @property
    def box_count(self) -> int:
        """Boxes of single objects, which are trained on."""
        return self.index.boxes

    @property
    def fingerprint(self) -> str:
        """Equal if the images, their order and their boxes are equal."""
        return self.index.fingerprint

    def box_shapes(self, size: int) -> np.ndarray:
        """Widths and heights (M, 2) of boxes, in pixels of an image with its long side at `size`; a sample if many."""
        return self.shapes * np.float32(size)

    def samples(
        self,
        shard: int,
        first: int = 0,
        stop: int | None = None,
        count_bytes: Callable[[int], None] = lambda count: None,
    ) -> Iterator[StoredSample]:
        """The samples `first` to `stop` of a shard in stored order; only these are read.

        Calls `count_bytes` with the number of bytes read for each sample. Raises DataError naming the shard.
        """
        entry, offsets = self.index.shards[shard], self.offsets[shard]
        stop = entry.samples if stop is None else stop
        place = self.store.place(entry.name)
        number, counted = first, 0
        try:
            with self.store.open(entry.name, int(offsets[first]), int(offsets[stop])) as reader:
                for key, group in groupby(_files(reader), key=lambda file: file[0]):
                    files = [file[1:] for file in group]
                    number += 1
                    count_bytes(reader.bytes_read - counted)
                    counted = reader.bytes_read
                    yield self._sample(key, files, place)
        except DataError:
            raise
        except Exception as error:  # damaged bytes can raise any kind of error in tarfile
            reason = error.args[0] if error.args else type(error).__name__
            where = f"is damaged near sample {number} of {entry.samples}"
            raise DataError(f"{place}: {where}: {reason}; {REWRITE}") from error
        if number != stop:
            raise DataError(f"{place}: ends after sample {number} of {entry.samples}; {REWRITE}")

    def _sample(self, key: str, files: list[tuple[str, bytes]], place: str) -> StoredSample:
        by_suffix = dict(files)
        annotation = by_suffix.pop(ANNOTATION, None)
        if annotation is None or len(by_suffix) != 1 or len(files) != 2:
            raise ValueError(f"sample {shown(key)} is not one image and one .{ANNOTATION} file")
        [image] = by_suffix.values()
        content = json.loads(annotation)
        position = content["position"]
        if type(position) is not int or not 0 <= position < len(self):
            raise ValueError(f"position {shown(position)} of {len(self)} images")
        name = PurePath(content["file_name"]).name
        if not names_a_file(name):
            raise ValueError(f"{shown(name)} is no valid file name")
        record = record_of(content, Path(f"{place}/{name}"), len(self.class_names))
        return StoredSample(record, image, position)


def open_shards(section: DataSection, split: str) -> Shards:
    """The shards that a recipe's `data` section names. Raises DataError if there are none or they are invalid."""
    store = ShardStore(shard_location(section, split))
    index = parse_index(store.read(INDEX, MOST_INDEX_BYTES), store.place(INDEX))
    offsets, shapes = _arrays(store.read(ARRAYS, MOST_INDEX_BYTES), store.place(ARRAYS))
    ends = np.cumsum([shard.samples + 1 for shard in index.shards])
    by_shard = tuple(np.split(offsets, ends[:-1])) if len(offsets) == ends[-1] else ()
    if not by_shard or not all(map(_is_within, by_shard, index.shards)):
        raise DataError(
            f"{store.place(ARRAYS)}: does not belong to the {INDEX} beside it; {REWRITE}"
        )
    report = DataReport(store.place(INDEX), index.images, index.boxes)
    return Shards(store, index, by_shard, shapes, report)


def _arrays(content: bytes, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and shapes of the expected types. Raises DataError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_INDEX_BYTES:
            raise ValueError(f"would have {unpacked} bytes when unpacked")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            offsets, shapes = arrays["offsets"], arrays["shapes"]
        if offsets.dtype != np.int64 or offsets.ndim != 1:
            raise ValueError("its offsets are no list of int64")
        if shapes.ndim != 2 or shapes.shape[1] != 2 or not np.isfinite(shapes).all():
            raise ValueError("its shapes are no pairs of finite numbers")
    except Exception as error:  # as above
        raise DataError(f"{place}: cannot be read: {error}; {REWRITE}") from error
    return offsets, shapes


def _is_within(offsets: np.ndarray, shard: Shard) -> bool:
    return bool(offsets[0] >= 0 and (np.diff(offsets) > 0).all() and offsets[-1] <= shard.bytes)


def _files(reader: RangeReader) -> Iterator[tuple[str, str, bytes]]:
    """Key, lower-case suffix and content of each regular file in a tar.

    Compressed or sparse files are refused: a few bytes could become many.
    """
    with tarfile.open(fileobj=reader, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None:
                raise ValueError(f"{shown(member.name)} is no regular file")
            key, _, suffix = member.name.partition(".")
            yield key, suffix.lower(), content.read()
            tar.members = []  # else the list grows with the shard


def annotation_of(record: ImageRecord, position: int) -> bytes:
    """A sample's annotations as JSON."""
    content = {
        "image_id": record.image_id,
        "file_name": record.path.name,
        "position": position,
        "width": record.width,
        "height": record.height,
    }
    arrays = {key: getattr(record, key).tolist() for key in ("boxes", "classes", "crowd", "areas")}
    return json.dumps(content | arrays).encode()


def record_of(content: dict[str, Any], path: Path, classes: int) -> ImageRecord:
    """The record of an image at `path` with the annotations that `annotation_of` wrote.

    Raises KeyError, TypeError or ValueError if they are invalid, or if a box has a class that is not below `classes`.
    """
    image_id, width, height = (content[key] for key in ("image_id", "width", "height"))
    if not all(type(number) is int for number in (image_id, width, height)):
        raise TypeError("image_id, width and height are no integers")
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is refused below
        boxes = np.array(content["boxes"], dtype=np.float32).reshape(-1, 4)
        areas = np.array(content["areas"], dtype=np.float32)
    labels = np.array(content["classes"], dtype=np.int64)
    crowd = np.array(content["crowd"], dtype=bool)
    if any(column.shape != (len(boxes),) for column in (labels, crowd, areas)):
        raise ValueError("boxes, classes, crowd and areas differ in length")
    if ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"a box has a class that is not from 0 to {classes - 1}")
    are_within = (boxes >= 0) & (boxes <= max(width, height, 1))
    if min(width, height) < 1 or not (are_within.all() and np.isfinite(areas).all()):
        raise ValueError("boxes are outside of the image, or areas are infinite")
    return ImageRecord(image_id, path, width, height, boxes, labels, crowd, areas)


def unpack(shards: Shards, folder: Path, progress: ProgressFactory = no_progress) -> None:
    """Fetch all images into a folder, completely or not at all; does nothing if the folder exists.

    For a validation split, which is read in full repeatedly. Raises DataError if a shard cannot be read.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    lines: dict[int, bytes] = {}
    try:
        with progress(f"fetching {shards.index.split} images", len(shards)) as advance:
            for shard in range(len(shards.index.shards)):
                for sample in shards.samples(shard):
                    name = f"{sample.position:012d}{sample.record.path.suffix}"
                    (temporary / name).write_bytes(sample.content)
                    lines[sample.position] = annotation_of(sample.record, sample.position)
                    advance(1)
        text = b"".join(lines[position] + b"\n" for position in sorted(lines))
        (temporary / UNPACKED_ANNOTATIONS).write_bytes(text)
        temporary.chmod(0o755)  # readable by other users; mkdtemp's is not
        temporary.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another run has fetched them meanwhile
            message = f"{folder}: {error}; set data.cache_folder to a local folder"
            raise DataError(message) from error
    finally:
        rmtree(temporary, ignore_errors=True)


def read_unpacked(folder: Path, shards: Shards) -> DetectionDataset:
    """The data set that `unpack` stored in a folder, in the order before it was sharded."""
    index, annotations, records = shards.index, folder / UNPACKED_ANNOTATIONS, []
    try:
        for line in annotations.read_text(encoding="utf-8").splitlines():
            content = json.loads(line)
            path = folder / f"{content['position']:012d}{Path(content['file_name']).suffix}"
            records.append(record_of(content, path, len(index.class_names)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{annotations}: cannot be read: {error}; remove {folder}") from error
    report = DataReport(shards.source, len(records), index.boxes)
    return DetectionDataset(
        shards.source, index.class_names, index.category_ids, tuple(records), report
    )
