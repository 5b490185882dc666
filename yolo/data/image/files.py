"""Find the image files below a folder, and name what else is there. Needs no packages."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yolo.data.image import IMAGE_SUFFIXES, UNREAD_SUFFIXES

SKIPPED_FOLDERS = frozenset({"__MACOSX", "lost+found"})
"""What zip programs and file systems add; folders and files whose name begins with a dot are skipped too."""
SIDE_SUFFIXES = frozenset(
    {
        *(".txt", ".xml", ".json", ".yaml", ".yml", ".csv", ".names", ".cache"),
        *(".md", ".html", ".pdf", ".py", ".db", ".ini"),
    }
)
"""Annotations, and what file browsers and people leave beside images: not worth a report."""


@dataclass(frozen=True, slots=True)
class FolderContent:
    """The files below a folder by kind, each kind sorted."""

    images: tuple[Path, ...]
    unread: tuple[Path, ...]
    """Images of a format that is not read, such as .heic."""
    unknown: tuple[Path, ...]
    """Files whose suffix is of no image and of no annotation."""
    annotations: tuple[Path, ...]
    """Files named *.xml and *.txt."""


def find_images(folder: Path) -> list[Path]:
    """The images below a folder, sorted. Dot files are skipped, links to folders followed. Raises OSError."""
    return list(folder_content(folder).images)


def folder_content(folder: Path) -> FolderContent:
    """All files below a folder by kind, as `find_images` walks it. Raises OSError if a folder cannot be read."""
    files = sorted(_files_below(folder))
    suffixes = [path.suffix.lower() for path in files]

    def of_kind(kind: frozenset[str]) -> tuple[Path, ...]:
        return tuple(path for path, suffix in zip(files, suffixes, strict=True) if suffix in kind)

    known = IMAGE_SUFFIXES | UNREAD_SUFFIXES | SIDE_SUFFIXES
    return FolderContent(
        of_kind(IMAGE_SUFFIXES),
        of_kind(UNREAD_SUFFIXES),
        of_kind(frozenset(suffixes) - known),
        of_kind(frozenset({".xml", ".txt"})),
    )


def _files_below(folder: Path) -> Iterator[Path]:
    """Each folder once, so that a link that leads back ends; real folders first, so that files keep their own path."""
    seen: set[tuple[int, int]] = set()
    pending = [str(folder)]
    while pending:
        links: list[str] = []
        for top in pending:
            for place, folders, names in os.walk(top, onerror=_raise):
                status = os.stat(place)
                if (status.st_dev, status.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                folders[:] = sorted(filter(_is_shown, folders))
                paths = [os.path.join(place, name) for name in folders]
                links += filter(os.path.islink, paths)
                yield from (Path(place, name) for name in names if _is_shown(name))
        pending = links


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name not in SKIPPED_FOLDERS


def _raise(error: OSError) -> None:
    raise error
