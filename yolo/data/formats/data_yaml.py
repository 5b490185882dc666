"""The data.yaml of the YOLO format: its class names, and the image files of its splits.

It is read as the public tools read what exporting programs write: paths with `../` that are not there, backslashes, names
that are numbers, further keys.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from yolo.data.image.files import FolderContent, folder_content
from yolo.errors import DataError, RecipeError
from yolo.recipe.did_you_mean import nearest
from yolo.recipe.load.foreign_yaml import read_foreign
from yolo.recipe.load.safe_read import MOST_LABEL_BYTES, read_bytes
from yolo.recipe.plain_text import is_plain

FIRST_LINES = 10
"""Lines of a list that are looked for, to find what its paths are relative to."""
NOT_HERE = re.compile(r"[A-Za-z]:/|/")
"""The beginning of an absolute path, of Windows or of Unix."""


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The images of a split, not opened, and what else is in its folders."""

    images: list[Path]
    folders: list[FolderContent]
    """Empty if the split is a list of images."""


@dataclass(frozen=True, slots=True)
class DataYaml:
    """A data.yaml; all its scalars are text."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "DataYaml":
        """Read a file. Raises DataError if it cannot be read."""
        try:
            content = read_foreign(path)
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no such file; with data.format yolo, data.train and data.val name a data.yaml"
            ) from error
        except OSError as error:
            hint = "; name the data.yaml in it" if path.is_dir() else ""
            raise DataError(f"{path}: cannot be read: {error.strerror}{hint}") from error
        except RecipeError as error:
            raise DataError(str(error)) from error
        if not content:
            raise DataError(f"{path}: expected `train:`, `val:` and `names:`")
        return cls(path, content)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in order. Raises DataError if they are invalid."""
        names, count = self.content.get("names"), self.content.get("nc")
        if names is None and count is not None:
            raise DataError(
                f"{self.path}: has `nc: {shown(count)}`, but no `names:`; add a list of the class names"
            )
        if isinstance(names, dict):
            names = self._in_order(names)
        if not isinstance(names, list) or not names:
            raise DataError(
                f"{self.path}: names: expected a list of class names, found {shown(names)}"
            )
        for number, name in enumerate(names):
            if not isinstance(name, str) or not name or not is_plain(name):
                raise DataError(
                    f"{self.path}: names: expected a list of class names, found {shown(name)} for class {number}"
                )
        if count is not None and str(count).strip() != str(len(names)):
            raise DataError(
                f"{self.path}: nc is {str(count)[:20]}, but names lists {len(names)} classes"
            )
        return tuple(names)

    def _in_order(self, names: Mapping[str, Any]) -> list[Any]:
        by_number = {int(key): name for key, name in names.items() if key.isdecimal()}
        if sorted(by_number) != list(range(len(names))):
            raise DataError(
                f"{self.path}: names: expected the numbers 0 to {len(names) - 1}, found {', '.join(list(names)[:8])}"
            )
        return [by_number[number] for number in range(len(names))]

    @property
    def keypoint_values(self) -> int:
        """Values after the box in each label row of a keypoint data set (`kpt_shape`), else 0."""
        shape = self.content.get("kpt_shape")
        if isinstance(shape, list) and len(shape) == 2:
            with suppress(TypeError, ValueError):
                return int(shape[0]) * int(shape[1])
        return 0

    def images(self, split: str) -> list[Path]:
        """The image files of a split, without opening them. Raises DataError if they cannot be listed."""
        return self.files(split).images

    def files(self, split: str) -> SplitFiles:
        """The files of a split: a folder, a text file that lists images, or a list of either.

        Raises DataError if they cannot be listed.
        """
        entry = self.content.get(split)
        if entry is None:
            near = nearest(split, set(self.content) - {"train", "val", "test"})
            raise DataError(
                f"{self.path}: has no `{split}:`; set it to the folder of the split's images.{near}"
            )
        images: list[Path] = []
        folders: list[FolderContent] = []
        for place in entry if isinstance(entry, list) else [entry]:
            if not isinstance(place, str):
                raise DataError(
                    f"{self.path}: {split}: expected a folder or a .txt list, found {shown(place)}"
                )
            path = self._located(place, split)
            try:
                if path.is_dir():
                    folders.append(folder_content(path))
                    images += folders[-1].images
                else:
                    images += self._listed(path)
            except OSError as error:  # for example a name that is too long
                raise DataError(f"{self.path}: {split}: {path}: cannot be read: {error}") from error
        return SplitFiles(images, folders)

    @property
    def _roots(self) -> list[Path]:
        """Folders that the splits' paths may be relative to: `path`, as seen from this file or the working directory."""
        folder, given = self.path.parent, self.content.get("path")
        if given is None:
            return [folder]
        return [base / form for base in (folder, Path()) for form in _forms(str(given))]

    def _located(self, place: str, split: str) -> Path:
        """The folder or list. Raises DataError, with what to write in its place if that is known."""
        for root in self._roots:
            for form in _forms(place):
                path = root / form
                if _is_folder(path) or (path.suffix == ".txt" and _exists(path)):
                    return path
        found = self._roots[0] / place
        raise DataError(
            f"{self.path}: {split}: {found} is neither a folder nor a .txt list of images{self._hint(place, split)}"
        )

    def _hint(self, place: str, split: str) -> str:
        """The longest end of the path that is beside the data.yaml: the rest was another machine's."""
        parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", "..")]
        removed = "without `path:`, " if "path" in self.content else ""
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if _exists(self.path.parent / end):
                return f"; here it is beside this file: {removed}write `{split}: {end}`"
        absolute = NOT_HERE.match(place.replace("\\", "/"))
        return "; the path is another machine's" if absolute else ""

    def _listed(self, listing: Path) -> list[Path]:
        """The images that a text file lists, relative to its folder, to `path`, or to the working directory."""
        text = read_bytes(listing, MOST_LABEL_BYTES).decode("utf-8-sig", "surrogateescape")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        slashed = [line.replace("\\", "/") for line in lines]
        bases = [listing.parent, *self._roots, Path()]
        for base in bases:
            for names in (lines, slashed):
                if any(_exists(base / name) for name in names[:FIRST_LINES]):
                    return [base / name for name in names]
        return [listing.parent / name for name in lines]


def _forms(place: str) -> dict[str, None]:
    """The path as it is written, with slashes, and without `../` before it (Roboflow's, whose data.yaml lies higher)."""
    slashed = place.replace("\\", "/")
    return dict.fromkeys((place, slashed, re.sub(r"^(\.\./)+", "", slashed)))


def _exists(path: Path) -> bool:
    with suppress(OSError):  # such as a name that is too long
        return path.exists()
    return False


def _is_folder(path: Path) -> bool:
    with suppress(OSError):
        return path.is_dir()
    return False
