"""Store a split's shards as files on this machine, for a validation split, which is read in full repeatedly."""

import json
import tempfile
from pathlib import Path
from shutil import rmtree

from yolo.data.dataset import DataReport, DetectionDataset
from yolo.data.progress_protocol import ProgressFactory, no_progress
from yolo.data.shards.reader import Shards, annotation_of, record_of
from yolo.errors import DataError

ANNOTATIONS = "annotations.jsonl"


def unpack(shards: Shards, folder: Path, progress: ProgressFactory = no_progress) -> None:
    """Fetch all images into a folder, completely or not at all; does nothing if the folder exists.

    Raises DataError if a shard cannot be read.
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
        (temporary / ANNOTATIONS).write_bytes(text)
        temporary.chmod(0o755)  # readable by other users; mkdtemp's is not
        temporary.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another run has fetched them meanwhile
            raise DataError(
                f"{folder}: {error}; set data.cache_folder to a local folder"
            ) from error
    finally:
        rmtree(temporary, ignore_errors=True)


def read_unpacked(folder: Path, shards: Shards) -> DetectionDataset:
    """The data set that `unpack` stored in a folder, in the order before it was sharded."""
    index, annotations, records = shards.index, folder / ANNOTATIONS, []
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
