"""Compare copies of a data set across hosts without reading every image."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from yolo.data.image.files import find_images
from yolo.errors import DataError
from yolo.preflight.host_info import Content, ProbeRequest


def content_of(request: ProbeRequest) -> Content:
    """Digests of the files; number and bytes of the images in the folders and of the splits."""
    digests = {file: digest_of(Path(file)) for file in request.files}
    totals: dict[str, tuple[int, int]] = {}
    problems = []
    for folder in request.folders:
        totals[folder] = -1, 0
        with suppress(OSError):
            totals[folder] = _total(find_images(Path(folder)))
    for data_yaml, split in request.splits:
        place = f"{data_yaml} ({split})"
        try:
            totals[place] = _total(_files_of_split(Path(data_yaml), split))
        except (DataError, ImportError) as error:
            totals[place] = -1, 0
            problems.append(str(error))
    files = {place: count for place, (count, _) in totals.items()}
    sizes = {place: size for place, (_, size) in totals.items()}
    return Content(digests, files, sizes, "; ".join(problems))


def digest_of(path: Path) -> str | None:
    """sha256 of a file; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def digest_of_source(folder: Path) -> str:
    """sha256 of all Python files below a folder, with their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {digest_of(path)}\n".encode())
    return digest.hexdigest()


def _files_of_split(data_yaml: Path, split: str) -> Iterable[Path]:
    """Images and labels. Raises DataError."""
    from yolo.data.formats.data_yaml import DataYaml  # needs packages that a host may lack
    from yolo.data.formats.yolo_txt import label_path

    images = DataYaml.read(data_yaml).images(split)
    return [*images, *map(label_path, images)]


def _total(paths: Iterable[str | Path]) -> tuple[int, int]:
    """Number and bytes of the files that exist."""
    count = size = 0
    for path in paths:
        with suppress(OSError):
            size += os.stat(path).st_size
            count += 1
    return count, size
