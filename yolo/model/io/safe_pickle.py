"""Files of `torch.save`, read without running anything in them.

A pickle is a program: it may name any function of any installed module and have it called with any arguments. So none
of its names is looked up here. Tensors become descriptions of where their numbers lie in the file, a class of the kinds
that a checkpoint is made of becomes an inert stand-in, and every other name ends the reading.
"""

import io
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from yolo.errors import WeightsError

KNOWN_CLASSES = ("models.", "ultralytics.", "utils.", "torch.nn.modules.", "pathlib.")
"""Modules whose classes a checkpoint may name: its code's, torch's layers, and paths among its settings."""
KNOWN_NAMES = frozenset(
    {
        *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
        *(f"pathlib.{kind}Path" for kind in ("", "Pure", "Posix", "Windows")),
        *("argparse.Namespace", "types.SimpleNamespace", "torch.device", "torch.memory_format"),
        *(f"numpy.{name}" for name in ("dtype", "ndarray")),
        *(
            f"numpy.{core}.multiarray.{name}"
            for core in ("core", "_core")
            for name in ("scalar", "_reconstruct")
        ),
    }
)
"""Others, of which the record of a training run may be made."""
DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
"""By the name of torch's storage class, less `Storage`."""
NUMBERED = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
"""What a pickle keeps an object by, to use it again."""
FEW = 1000
"""Objects, for which there may be room in any pickle."""
OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""How torch's files began before release 1.6."""


Class = TypeVar("Class", bound=type)


def _unchangeable(cls: Class) -> Class:
    """A class whose objects were checked when they were made: a pickle's BUILD would set their attributes unchecked.

    To be put above `dataclass`, which before Python 3.11.3 replaces a `__setstate__` that stands in the class.
    """

    def refuse(self: object, state: object) -> NoReturn:
        raise TypeError(f"a state for the finished {cls.__name__}")

    cls.__setstate__ = refuse  # type: ignore[attr-defined]
    return cls


class Stub:
    """Stands for an object of a class that is not looked up: keeps what the pickle says of it, and does nothing.

    A `__setstate__` also keeps a pickle from changing the class itself: BUILD calls it on whatever it is given, without
    an object to set the state of.
    """

    __slots__ = ("arguments", "state")
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> "Stub":
        stub = super().__new__(cls)
        stub.arguments = arguments
        stub.state = None
        return stub

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def class_name(self) -> str:
        """Of the class it stands for, without its module."""
        return type(self).__name__

    def attribute(self, name: str) -> Any:
        """An attribute as it was pickled; None where there is none."""
        return self.state.get(name) if isinstance(self.state, dict) else None


class PickledDict(dict[Any, Any]):
    """An OrderedDict, without the attributes that one may have."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """`_metadata` of a state dict: of no use here."""


@_unchangeable
@dataclass(frozen=True, slots=True)
class StorageType:
    """A class of torch's storages, or a dtype."""

    dtype: torch.dtype


@_unchangeable
@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers of one type, one after another in the file."""

    dtype: torch.dtype
    record: str
    """Name in the zip archive."""
    elements: int


@_unchangeable
@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A tensor whose numbers are still in the file: in bounds, and no larger than its storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.size, *self.stride)
        is_sound = len(self.size) == len(self.stride) and all(
            type(number) is int and number >= 0 for number in numbers
        )
        if not is_sound or not isinstance(self.storage, Storage):
            raise ValueError(f"a tensor of size {shown(self.size)} and stride {shown(self.stride)}")
        elements, last = 1, self.offset
        for length, step in zip(self.size, self.stride, strict=True):
            elements *= length
            last += (length - 1) * step
        # Expanded tensors (stride 0) are in bounds too, but a few bytes of file could then ask for any memory.
        if elements and (last >= self.storage.elements or elements > self.storage.elements):
            raise ValueError(
                f"a tensor of size {self.size} that reaches beyond the {self.storage.elements} numbers of its storage"
            )


class PickledFile:
    """A file of `torch.save`, open; `content` is what its pickle holds."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self._path = path
        self._archive = archive
        self._folder = _folder(archive)
        recorded = f"{self._folder}byteorder"
        order = archive.read(recorded).decode() if recorded in archive.namelist() else "little"
        if order != sys.byteorder:
            raise ValueError(f"numbers in {order}-endian order on a {sys.byteorder}-endian machine")
        program = archive.read(f"{self._folder}data.pkl")
        _check_sizes(program)
        self.content: Any = _Unpickler(io.BytesIO(program), path, self._storage).load()

    def tensor(self, pickled: PickledTensor) -> Tensor:
        """Its numbers, in memory of their own. WeightsError where the file is damaged there."""
        storage = pickled.storage
        if 0 in pickled.size:
            return torch.empty(pickled.size, dtype=storage.dtype)
        try:
            content = bytearray(self._archive.read(storage.record))
            flat = torch.frombuffer(content, dtype=storage.dtype, count=storage.elements)
        except Exception as error:  # as of `open_pickled`
            raise _damaged(self._path, error) from error
        shaped = flat.as_strided(pickled.size, pickled.stride, pickled.offset)
        return shaped.clone(memory_format=torch.contiguous_format)

    def _storage(self, kind: object, key: object, elements: object) -> Storage:
        if not isinstance(kind, StorageType) or not isinstance(key, str):
            raise ValueError(f"a storage {shown(key)} of type {shown(kind)}")
        if type(elements) is not int or elements < 0:
            raise ValueError(f"a storage of {shown(elements)} numbers")
        record = self._archive.getinfo(f"{self._folder}data/{key}")
        if elements * kind.dtype.itemsize > record.file_size:
            raise ValueError(
                f"a storage of {elements} numbers in {record.file_size} bytes ({record.filename})"
            )
        return Storage(kind.dtype, record.filename, elements)


@contextmanager
def open_pickled(path: Path) -> Iterator[PickledFile]:
    """Read a file's pickle, and its tensors for as long as it is open.

    WeightsError where it is missing, damaged, of another format, or names anything that is not expected in a checkpoint.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give the path of a checkpoint (*.pt)")
    try:
        with path.open("rb") as stream:
            head = stream.read(len(OLD_FORMAT))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    if head == OLD_FORMAT:
        raise WeightsError(
            f"{path}: is in torch's format of before release 1.6, which is not read here; where you trust it, load it"
            " with torch and save it again"
        )
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path}: is no file of torch.save; give the path of a checkpoint (*.pt), whole as it was published"
        )
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            opened = PickledFile(path, archive)
        except WeightsError:
            raise
        except Exception as error:  # what damaged bytes lead a pickle to is any kind of error
            raise _damaged(path, error) from error
        yield opened


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return WeightsError(
        f"{path}: not a sound checkpoint ({reason}); copy it again from where it was published"
    )


def _folder(archive: zipfile.ZipFile) -> str:
    """Within the archive, with its slash. ValueError where there is not one of them, or it is not stored plainly."""
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} pickles (data.pkl) in it, expected 1")
    if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
        raise ValueError("compressed records, which torch.save does not write")
    return pickles[0].removesuffix("data.pkl")


def _check_sizes(program: bytes) -> None:
    """ValueError where a pickle asks for more memory than it has reason to: reading one has places for all numbers up to the highest."""
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name in NUMBERED and int(argument or 0) > max(FEW, len(program)):
            raise ValueError(f"object number {argument} in {len(program)} bytes")


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, stream: Any, path: Path, storage: Callable[[object, object, object], Storage]
    ):
        super().__init__(stream, encoding="utf-8")
        self._path = path
        self._storage = storage
        self._stubs: dict[str, type[Stub]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; nothing is imported."""
        known = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if known in STANDS_FOR:
            return STANDS_FOR[known]
        if known not in KNOWN_NAMES:
            self._refuse_unless_a_class(module, name)
        if known not in self._stubs:
            self._stubs[known] = type(name, (Stub,), {"__slots__": (), "__module__": module})
        return self._stubs[known]

    def persistent_load(self, pid: Any) -> Storage:
        """A storage, by its place in the file."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise ValueError(f"a reference {shown(pid)} that is none to a storage")
        _, kind, key, _, elements = pid
        return self._storage(kind, key, elements)

    def _refuse_unless_a_class(self, module: str, name: str) -> None:
        if not f"{module}.".startswith(KNOWN_CLASSES):
            why = "which is not among what a YOLOv5 checkpoint is made of; to read it as torch does could run any program"
        elif not (name.isidentifier() and name[0].isupper()):
            why = "which is not named as a class is, and a checkpoint has no other use for a name"
        else:
            return
        raise WeightsError(
            f"{self._path}: its pickle wants {module}.{name}, {why}. Nothing of it was run; take the weights from their"
            " publisher, or have whoever trained them save the state dict alone"
        )


@_unchangeable
@dataclass(frozen=True, slots=True)
class _Call:
    """Stands for a function that a pickle may call."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, hooks: Any, *metadata: Any
) -> PickledTensor:
    _refuse_hooks(hooks)
    return PickledTensor(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, _: Any, hooks: Any) -> PickledTensor:
    _refuse_hooks(hooks)
    if not isinstance(data, PickledTensor):
        raise ValueError(f"a parameter that is no tensor but {shown(data)}")
    return data


def _bytes(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError(f"text in the encoding {shown(encoding)}")
    return text.encode("latin1")


def _refuse_hooks(hooks: Any) -> None:
    if hooks:
        raise ValueError("a tensor with hooks, functions to be run in training")


STANDS_FOR: Mapping[str, Any] = {
    "collections.OrderedDict": PickledDict,
    "torch.Size": tuple,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "_codecs.encode": _Call(_bytes),  # how pickles of protocol 2 hold bytes
    "torch._utils._rebuild_tensor_v2": _Call(_tensor),
    "torch._utils._rebuild_parameter": _Call(_parameter),
    **{f"torch.{name}Storage": StorageType(dtype) for name, dtype in DTYPES.items()},
    **{str(dtype): StorageType(dtype) for dtype in DTYPES.values()},
}
"""What a pickle gets for a name. It can call the few functions and classes here and the classes of stand-ins, and change none of them."""
