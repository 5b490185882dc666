"""A split's shards as files on this machine, for a validation split, which is read in whole again and again."""

import json
import tempfile
from pathlib import Path
from shutil import rmtree

from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord
from yolo.data.progress_protocol import Counting, uncounted
from yolo.data.shards.reader import Shards, annotation_of, record_of
from yolo.errors import DataError

ANNOTATIONS = "annotations.jsonl"


def unpack(shards: Shards, folder: Path, counting: Counting = uncounted) -> None:
    """Fetch all images into a folder, whole or not at all; nothing where it is there already.

    Raises DataError where a shard cannot be read.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    lines: dict[int, bytes] = {}
    try:
        with counting(f"fetching {shards.index.split} images", len(shards)) as advance:
            for shard in range(len(shards.index.shards)):
                for sample in shards.samples(shard):
                    name = f"{sample.position:012d}{sample.record.path.suffix}"
                    (temporary / name).write_bytes(sample.content)
                    lines[sample.position] = annotation_of(sample.record, sample.position)
                    advance(1)
        text = b"".join(lines[position] + b"\n" for position in sorted(lines))
        (temporary / ANNOTATIONS).write_bytes(text)
        temporary.chmod(0o755)  # for colleagues too: mkdtemp's is its owner's
        temporary.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another run has fetched them meanwhile
            raise DataError(
                f"{folder}: {error}; set data.cache_folder to a local folder"
            ) from error
    finally:
        rmtree(temporary, ignore_errors=True)


def read_unpacked(folder: Path, shards: Shards) -> DetectionDataset:
    """What `unpack` left in a folder, in the order that the split had before it was sharded."""
    records = tuple(_records(folder, len(shards.class_names)))
    report = DataReport(shards.source, len(records), shards.box_count)
    index = shards.index
    return DetectionDataset(shards.source, index.class_names, index.category_ids, records, report)


def _records(folder: Path, classes: int) -> list[ImageRecord]:
    place = folder / ANNOTATIONS
    try:
        found = []
        for line in place.read_text(encoding="utf-8").splitlines():
            content = json.loads(line)
            suffix = Path(content["file_name"]).suffix
            path = folder / f"{content['position']:012d}{suffix}"
            found.append(record_of(content, path, classes))
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place}: cannot be read: {error}; remove {folder}") from error
