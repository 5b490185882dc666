"""Pascal VOC: an XML file of objects per image, and per split a list of names in ImageSets/Main.

A folder in which images and XML files lie together, as LabelImg and exporting tools write it, is a split too.
"""

import re
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord, Problem, clean_boxes
from yolo.data.formats.coco import MAX_SIDE
from yolo.data.formats.splits import SPLITS
from yolo.data.image import IMAGE_SUFFIXES
from yolo.data.image.decode import UnusableImage, image_size
from yolo.data.image.files import FolderContent, folder_content
from yolo.data.other_files import report_other_files
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_LABEL_BYTES, MOST_XML_BYTES, read_bytes
from yolo.recipe.plain_text import is_plain

LISTS = Path("ImageSets", "Main")
CLASS_FLAG = re.compile(r"\s+-?[01]$")
"""In lists of one class, whether the image shows it."""
LISTED_SUFFIX = re.compile(rf"({'|'.join(map(re.escape, IMAGE_SUFFIXES))})$", re.IGNORECASE)
"""Of an image's name in a list, where it is not needed."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")
CLASS_LIST = "classes.txt"
NAMED = 8
"""Splits named in an error."""


@dataclass(frozen=True, slots=True)
class VocFiles:
    """The files of a split, not opened."""

    place: Path
    """The list or folder."""
    images: list[Path]
    annotations: list[Path]
    """The XML file of each image, whether it exists or not."""
    folders: list[FolderContent]
    """Empty if the split is a list."""


@dataclass(frozen=True, slots=True)
class _Object:
    name: str
    is_difficult: bool
    box: tuple[float, ...]
    """xyxy, pixels."""


@dataclass(frozen=True, slots=True)
class _Annotation:
    width: int
    height: int
    """0 if the file states none."""
    objects: list[_Object]


def read_voc(root: Path, split: str, train: str | None = None) -> DetectionDataset:
    """Read a split: the name of a list in ImageSets/Main, or a list or folder below `root`.

    Classes are the lines of `root`/classes.txt, else the sorted names in the split `train`, by default this one. An object
    of another class is counted. Raises DataError if nothing can be read.
    """
    files = voc_files(root, split)
    report = DataReport(str(files.place), images=len(files.images))
    annotations = [_read(path, report) for path in files.annotations]
    names = _class_list(root)
    if names is None and train is not None and train != split:
        unused = DataReport("")
        names = _names_in(_read(path, unused) for path in voc_files(root, train).annotations)
    if names is None:
        names = _names_in(annotations)
    class_of = {name: index for index, name in enumerate(names)}
    records = []
    for image_id, (path, xml, found) in enumerate(
        zip(files.images, files.annotations, annotations, strict=True)
    ):
        if found is None:
            continue
        try:
            has_size = min(found.width, found.height) > 0
            width, height = (found.width, found.height) if has_size else image_size(path)
        except UnusableImage as error:
            report.add(error.problem, str(error))
            continue
        rows = []
        for each in found.objects:
            if each.name not in class_of:
                report.add(Problem.UNKNOWN_CLASS, f"{xml}: {each.name[:60]!r}")
                continue
            if each.is_difficult:
                report.add(Problem.DIFFICULT, f"{xml}: {each.name}")
            rows.append((*each.box, class_of[each.name], each.is_difficult))
        table = np.array(rows, dtype=np.float64).reshape(-1, 6)
        cleaned = clean_boxes(table, width, height, path.name, report)
        records.append(ImageRecord(image_id, path, width, height, *cleaned))
    if files.folders:
        unread = [path for each in files.folders for path in each.unread]
        expected = [*files.annotations, *map(xml_path, unread)]
        report_other_files(files.folders, expected, report)
    if not records or not names:
        what = "image" if not records else "object"
        lines = "\n  ".join(["", *report.lines()])
        raise DataError(f"{files.place}: holds no {what} that can be used{lines}")
    return DetectionDataset(report.source, names, tuple(range(len(names))), tuple(records), report)


def voc_files(root: Path, split: str) -> VocFiles:
    """The files of a split, without opening an image or an XML file. Raises DataError if they cannot be listed."""
    place = split_place(root, split)
    folder = root / ("JPEGImages" if (root / "JPEGImages").is_dir() else "images")
    try:
        content = folder_content(place if place.is_dir() else folder)
        if place.is_dir():
            images = list(content.images)
            return VocFiles(place, images, list(map(xml_path, images)), [content])
        text = read_bytes(place, MOST_LABEL_BYTES).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError(f"{error.filename}: {(error.strerror or str(error)).lower()}") from error
    by_name = {
        str(path.relative_to(folder).with_suffix("")): path for path in reversed(content.images)
    }
    names = [_image_name(line.strip(), by_name) for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"{place}: is empty; expected the name of an image per line")
    images = [by_name.get(name, folder / f"{name}.jpg") for name in names]
    return VocFiles(place, images, [root / "Annotations" / f"{name}.xml" for name in names], [])


def _image_name(line: str, known: Container[str]) -> str:
    """The name in a line of a list, without suffix, and without the flag unless an image is named so."""
    forms = [LISTED_SUFFIX.sub("", text) for text in (line, CLASS_FLAG.sub("", line))]
    return next((name for name in (line, *forms) if name in known), forms[-1])


def split_place(root: Path, split: str) -> Path:
    """The list or folder of a split. Raises DataError if there is none."""
    for path in (root / LISTS / f"{split}.txt", root / split):
        if path.is_dir() or (path.suffix == ".txt" and path.is_file()):
            return path
    names = {path.stem for path in (root / LISTS).glob("*.txt")} | set(_split_folders(root))
    first = sorted(names, key=lambda name: (name not in SPLITS, name))[:NAMED]
    found = f"; splits there: {', '.join(first)}" if first else ""
    raise DataError(
        f"{root / LISTS / split}.txt: no such list, and {root / split} is no folder of images and XML files{found}"
    )


def is_split(root: Path, split: str) -> bool:
    """Whether there is a list or folder of a split."""
    try:
        split_place(root, split)
    except DataError:
        return False
    return True


def has_splits(root: Path) -> bool:
    """Whether there are lists or folders of splits; else the folder is one split."""
    return (root / LISTS).is_dir() or bool(_split_folders(root))


def _split_folders(root: Path) -> list[str]:
    return [name for name in SPLITS if (root / name).is_dir()]


def xml_path(image: Path) -> Path:
    """The XML file of an image: in the folder Annotations (or annotations) in place of JPEGImages or images, or beside it."""
    *folders, name = image.parts
    for images in ("JPEGImages", "images"):
        if images in folders:
            last = len(folders) - 1 - folders[::-1].index(images)
            for replacement in ("Annotations", "annotations"):
                parts = (*folders[:last], replacement, *folders[last + 1 :], name)
                if (path := Path(*parts).with_suffix(".xml")).is_file():
                    return path
    return image.with_suffix(".xml")


def _class_list(root: Path) -> tuple[str, ...] | None:
    """The lines of classes.txt, or None without such a file. Raises DataError if it cannot be read."""
    path = root / CLASS_LIST
    try:
        text = read_bytes(path, MOST_XML_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(set(names)) < len(names) or not names or not all(map(is_plain, names)):
        raise DataError(f"{path}: expected a class name per line, each once")
    return names


def _names_in(annotations: Iterable[_Annotation | None]) -> tuple[str, ...]:
    return tuple(sorted({each.name for found in annotations if found for each in found.objects}))


def _read(path: Path, report: DataReport) -> _Annotation | None:
    """An XML file, or None if its image cannot be used; a missing one means an image without objects."""
    try:
        root = _parse(read_bytes(path, MOST_XML_BYTES))
    except FileNotFoundError:
        report.add(Problem.NO_LABELS, str(path))
        return _Annotation(0, 0, [])
    except (OSError, ValueError, LookupError, expat.ExpatError) as error:  # an unknown encoding
        report.add(Problem.MALFORMED_LABELS, f"{path}: {error}")
        return None
    width, height = (_pixels(root.findtext(f"size/{side}")) for side in ("width", "height"))
    objects = []
    for index, element in enumerate(root.findall("object")):
        report.boxes += 1
        try:
            objects.append(_object(element))
        except ValueError as error:
            report.add(Problem.MALFORMED_BOX, f"{path}: object[{index}].{error}")
    return _Annotation(width, height, objects)


def _parse(content: bytes) -> Element:
    """Parse XML that has no document type: entities could expand to any size. Raises ValueError or ExpatError."""

    def refuse(*_: object) -> None:
        raise ValueError("has a <!DOCTYPE>, which is not read; remove it")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(content, True)
    root: Element = builder.close()
    return root


def _object(element: Element) -> _Object:
    """Raises ValueError with field, value and what was expected."""
    name = (element.findtext("name") or "").strip()
    if not name or not is_plain(name):
        raise ValueError(f"name: found {name[:60]!r}, expected a class name")
    corners = []
    for corner in CORNERS:
        text = element.findtext(f"bndbox/{corner}")
        number = float("nan")
        with suppress(TypeError, ValueError):
            number = float(text)  # type: ignore[arg-type]
        if not abs(number) < 1e7:
            raise ValueError(f"bndbox.{corner}: found {str(text)[:60]!r}, expected pixels")
        corners.append(number)
    left, top, right, bottom = corners
    # VOC counts pixels from 1 and includes the last. What counts from 0 is not reported as reaching out of the image.
    box = (max(left - 1, min(left, 0.0)), max(top - 1, min(top, 0.0)), right, bottom)
    return _Object(name, (element.findtext("difficult") or "").strip() == "1", box)


def _pixels(text: str | None) -> int:
    """A side of an image, or 0 if the text states none."""
    with suppress(TypeError, ValueError):
        if 0 < (number := float(text)) < MAX_SIDE:  # type: ignore[arg-type]
            return int(number)
    return 0
