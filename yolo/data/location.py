"""Where a recipe's data are, and the index of a split in shards. Needs no torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlparse

from pydantic import BaseModel, Field, ValidationError

from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_INDEX_BYTES, read_bytes
from yolo.recipe.schema.data import DataSection, is_url
from yolo.recipe.schema.recipe import Recipe

YAML_SUFFIXES = (".yaml", ".yml")
INDEX = "index.json"
ARRAYS = "index.npz"

MAX_SAMPLES = 10**9
"""Images of one shard."""
MAX_BYTES = 2**62
"""Fits into 64 bits, with room for sums."""


class Shard(BaseModel, extra="forbid", frozen=True, defer_build=True):
    """One tar file."""

    name: str = Field(pattern=r"^[\w.-]+$")
    samples: int = Field(ge=1, le=MAX_SAMPLES)
    bytes: int = Field(ge=1, le=MAX_BYTES)


class ShardIndex(BaseModel, extra="forbid", frozen=True, defer_build=True):
    """index.json of a folder of shards; not built before its first use, which most commands never have."""

    version: Literal[1]
    split: Literal["train", "val"]
    class_names: tuple[str, ...] = Field(min_length=1)
    category_ids: tuple[int, ...]
    boxes: int = Field(ge=0, le=MAX_BYTES)
    """Boxes of single objects, which are trained on."""
    fingerprint: str
    """Fingerprint of the sharded split, without images that could not be read."""
    seed: int = Field(ge=0)
    """Seed of the images' shuffle."""
    shards: tuple[Shard, ...] = Field(min_length=1)

    @property
    def images(self) -> int:
        """Images in all shards."""
        return sum(shard.samples for shard in self.shards)


def parse_index(text: str | bytes, place: str) -> ShardIndex:
    """Parse index.json. Raises DataError that begins with `place`."""
    try:
        return ShardIndex.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "it"
        raise DataError(
            f"{place}: is no index of shards: {key}: {first['msg']}; write the shards with `yolo shard`"
        ) from error


def shard_location(data: DataSection, split: str) -> str:
    """The local folder, URL or `pipe:` command of a split's shards."""
    given = getattr(data, split)
    if is_url(given):
        location = given
    elif is_url(data.root) and "{}" not in data.root:
        location = f"{data.root.rstrip('/')}/{given}"
    elif is_url(data.root):
        location = data.root.replace("{}", f"{given}/{{}}")
    else:
        location = str(Path(data.root) / given)
    if location.startswith("file:"):
        return unquote(urlparse(location).path)
    return location


def local_index(data: DataSection, split: str) -> ShardIndex | None:
    """A split's index if its location is on this machine, else None. Raises DataError if it is missing or invalid."""
    location = shard_location(data, split)
    if is_url(location):
        return None
    path = Path(location) / INDEX
    try:
        return parse_index(read_bytes(path, MOST_INDEX_BYTES), str(path))
    except OSError as error:
        raise DataError(
            f"data.{split}: {path}: {(error.strerror or str(error)).lower()}; data.root and data.{split} name a folder "
            "that `yolo shard` wrote"
        ) from error


def streams_of(recipe: Recipe) -> int:
    """Processes per rank that each read their own shards."""
    return max(1, recipe.data.workers)


def too_few(index: ShardIndex, place: str, recipe: Recipe) -> Iterator[str]:
    """A line if there are fewer shards than processes that read them."""
    workers = streams_of(recipe)
    ranks = recipe.sharding.data
    streams = ranks * workers
    if len(index.shards) < streams:
        share = sum(shard.bytes for shard in index.shards) / 1e6 / streams
        smaller = f"or --shard-mb {share:.0f} " if share >= 2 else ""
        yield (
            f"{place}: {len(index.shards)} shards are too few: {ranks} ranks x {workers} data.workers each read their "
            f"own shards; rewrite them with `yolo shard --shards {4 * streams}` {smaller}or lower data.workers"
        )


def annotation_path(data: DataSection, split: str) -> Path:
    """A split's annotation file, data.yaml, or (voc) list or folder; `data.root` may be the data.yaml itself."""
    root = Path(data.root)
    is_data_yaml = data.format == "yolo" and root.suffix in YAML_SUFFIXES
    return root if is_data_yaml else root / getattr(data, split)


def missing_root(data: DataSection) -> str | None:
    """An error line if the data folder is not on this machine."""
    root = Path(data.root)
    if root.is_dir() or (root.is_file() and annotation_path(data, "train") == root):
        return None
    if root.is_file():
        wanted = "data.format=yolo" if root.suffix in YAML_SUFFIXES else f"data.root={root.parent}"
        return f"data.root: {root}: is a file; set {wanted}"
    return f"data.root: {root}: no such folder; set data.root=/path/to/data"


def missing_files(data: DataSection) -> Iterator[str]:
    """An error line per missing folder, annotation file or shard index; URLs and commands are not checked."""
    if data.format != "shards" and (error_line := missing_root(data)):
        yield error_line
        return
    for split in ("train", "val"):
        path = annotation_path(data, split)
        if data.format == "shards":
            try:
                local_index(data, split)
            except DataError as error:
                yield str(error)
        elif data.format != "voc" and not path.is_file():
            found = "is a folder, not a file" if path.is_dir() else "no such file"
            yield f"data.{split}: {path}: {found}; {_hint(data)}"


def _hint(data: DataSection) -> str:
    """The overrides for what the folder holds, if that is known by its names."""
    root = Path(data.root)
    for path in (root / "data.yaml", *sorted(root.glob("*.yaml"))[:1]):
        if path.is_file():
            return f"for the YOLO format set data.format=yolo data.train={path.name} data.val={path.name}"
    if (root / "ImageSets" / "Main").is_dir():
        return "for Pascal VOC set data.format=voc data.train=train data.val=val"
    if data.format == "yolo":
        return "name a data.yaml, with `train:`, `val:` and `names:`"
    return "set data.root, data.train and data.val"
