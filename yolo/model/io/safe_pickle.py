"""Read files of `torch.save` without running anything in them.

A pickle is a program: it may call any function of any installed module with any arguments. So none of its names is
looked up here. Tensors become descriptions of where their numbers are in the file, classes that a checkpoint consists
of become inert stubs, and any other name is an error.
"""

import io
import math
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from reprlib import repr as shown
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yolo.errors import WeightsError
from yolo.model.io.weights_file import AGAIN, FileKind, kind_of

KNOWN_MODULES = (
    *("models.", "utils.", "yolov5.", "ultralytics."),
    *("torch.nn.modules.", "pathlib."),
)
"""Modules whose classes a checkpoint may name: its code's (also as installed from a package), torch's layers, and paths."""
KNOWN_NAMES = frozenset(
    {
        *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
        *("argparse.Namespace", "types.SimpleNamespace", "torch.device", "torch.memory_format"),
        *("numpy.dtype", "numpy.ndarray"),
        *("numpy.core.multiarray.scalar", "numpy.core.multiarray._reconstruct"),
        *("numpy._core.multiarray.scalar", "numpy._core.multiarray._reconstruct"),
    }
)
"""Other names that the record of a training run may contain."""
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
"""By the name of torch's storage class, without `Storage`."""
MEMO_OPCODES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
"""Store an object under a number, for use later in the pickle."""
SMALL_MEMO = 1000
"""Objects; any pickle may store this many."""


class Stub:
    """Stands for an object of a class that is not looked up: stores what the pickle passes, and does nothing.

    `__setstate__` also protects the class itself: the opcode BUILD calls it on any object, here without an instance.
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
        """Name of the class that it stands for, without the module."""
        return type(self).__name__

    def attribute(self, name: str) -> Any:
        """An attribute as it was pickled; None if there is none."""
        return self.state.get(name) if isinstance(self.state, dict) else None


class PickledDict(dict[Any, Any]):
    """An OrderedDict, without the attributes that it may have."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Ignore a state dict's `_metadata`."""


# The objects that a pickle gets from here are NamedTuples or torch's dtypes: BUILD can set no attribute of either.


class Storage(NamedTuple):
    """Numbers of one type, stored contiguously in the file."""

    dtype: torch.dtype
    record: str
    """Name in the zip archive."""
    elements: int


class PickledTensor(NamedTuple):
    """A tensor whose numbers are still in the file. Its claims are not checked before `PickledFile.shape`."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class PickledFile:
    """An open file of `torch.save`; `content` is what its pickle holds."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self._path = path
        self._archive = archive
        folder = _folder(archive)
        byteorder = f"{folder}byteorder"
        order = archive.read(byteorder).decode() if byteorder in archive.namelist() else "little"
        if order != sys.byteorder:
            raise ValueError(f"numbers in {order}-endian order on a {sys.byteorder}-endian machine")
        program = archive.read(f"{folder}data.pkl")
        _check_memo(program)
        self.content: Any = _Unpickler(program, path, archive, folder).load()

    def shape(self, name: str, pickled: PickledTensor) -> tuple[int, ...]:
        """A tensor's shape. WeightsError if it reaches beyond its storage, or is larger.

        Only tensors that are used have to pass: sound checkpoints hold expanded ones (stride 0) among their attributes.
        In bounds, these could still ask for any amount of memory with a few bytes.
        """
        storage, offset, size, stride = pickled
        steps = ((length - 1) * step for length, step in zip(size, stride, strict=True))
        elements = math.prod(size)
        if elements and max(offset + sum(steps), elements - 1) >= storage.elements:
            raise WeightsError(
                f"{self._path}: {name} has size {shown(size)}, which reaches beyond the {storage.elements} numbers of its"
                f" storage; {AGAIN}"
            )
        return size

    def tensor(self, name: str, pickled: PickledTensor) -> Tensor:
        """Read a tensor into its own memory. WeightsError as for `shape`, or if the file is damaged there."""
        storage, offset, size, stride = pickled
        if 0 in self.shape(name, pickled):
            return torch.empty(size, dtype=storage.dtype)
        try:
            content = bytearray(self._archive.read(storage.record))
            flat = torch.frombuffer(content, dtype=storage.dtype, count=storage.elements)
        except Exception as error:  # see `open_pickled`
            raise _damaged(self._path, error) from error
        shaped = flat.as_strided(size, stride, offset)
        return shaped.clone(memory_format=torch.contiguous_format)


@contextmanager
def open_pickled(path: Path) -> Iterator[PickledFile]:
    """Read a file's pickle; its tensors can be read while it is open.

    WeightsError if it is missing, damaged, of another format, or names anything unexpected in a checkpoint.
    """
    if kind_of(path) is FileKind.SAFETENSORS:
        raise WeightsError(
            f"{path}: is a safetensors file, not a checkpoint; use it as it is, for example as --weights"
        )
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            opened = PickledFile(path, archive)
        except WeightsError:
            raise
        except Exception as error:  # a damaged pickle can raise any kind of error
            raise _damaged(path, error) from error
        yield opened


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return WeightsError(f"{path}: not a valid checkpoint ({reason}); {AGAIN}")


def _folder(archive: zipfile.ZipFile) -> str:
    """The pickle's folder in the archive, with its slash. ValueError unless there is one, and nothing is compressed."""
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} pickles (data.pkl) in it, expected 1")
    if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
        raise ValueError("compressed records, which torch.save does not write")
    return pickles[0].removesuffix("data.pkl")


def _check_memo(program: bytes) -> None:
    """ValueError if a memo number asks for too much memory: the unpickler allocates all places up to the highest."""
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name in MEMO_OPCODES and int(argument or 0) > max(SMALL_MEMO, len(program)):
            raise ValueError(f"object number {argument} in {len(program)} bytes")


class _Unpickler(pickle.Unpickler):
    def __init__(self, program: bytes, path: Path, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(program), encoding="utf-8")
        self._path = path
        self._archive = archive
        self._folder = folder
        self._stubs: dict[str, type[Stub]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The replacement for a name; nothing is imported."""
        full_name = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if full_name in REPLACEMENTS:
            return REPLACEMENTS[full_name]
        if full_name not in KNOWN_NAMES and (why := _why_refused(module, name)):
            raise WeightsError(
                f"{self._path}: its pickle wants {module}.{name}, {why}. Nothing of it was run; take the weights from"
                " their publisher, or ask their author for the state dict only"
            )
        if full_name not in self._stubs:
            self._stubs[full_name] = type(name, (Stub,), {"__slots__": (), "__module__": module})
        return self._stubs[full_name]

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that a reference names."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise ValueError(f"a reference {shown(pid)} that is none to a storage")
        _, kind, key, _, elements = pid
        if not isinstance(kind, torch.dtype) or not isinstance(key, str):
            raise ValueError(f"a storage {shown(key)} of type {shown(kind)}")
        if type(elements) is not int or elements < 0:
            raise ValueError(f"a storage of {shown(elements)} numbers")
        record = self._archive.getinfo(f"{self._folder}data/{key}")
        if elements * kind.itemsize > record.file_size:
            raise ValueError(
                f"a storage of {elements} numbers in {record.file_size} bytes ({record.filename})"
            )
        return Storage(kind, record.filename, elements)


def _why_refused(module: str, name: str) -> str:
    """Empty if a checkpoint may name this class."""
    if not f"{module}.".startswith(KNOWN_MODULES):
        return "which is not among what a YOLOv5 checkpoint consists of; torch.load could run any program for it"
    if not (name.isidentifier() and name[0].isupper()):
        return "which is not named as a class is, and a checkpoint uses no other names"
    return ""


class _Call(NamedTuple):
    """A function that a pickle may call, without the attributes of a function."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, hooks: Any, *metadata: Any
) -> PickledTensor:
    _refuse_hooks(hooks)
    size, stride = tuple(size), tuple(stride)
    is_valid = len(size) == len(stride) and all(
        type(number) is int and number >= 0 for number in (offset, *size, *stride)
    )
    if not is_valid or not isinstance(storage, Storage):
        raise ValueError(f"a tensor of size {shown(size)} and stride {shown(stride)}")
    return PickledTensor(storage, offset, size, stride)


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


REPLACEMENTS: Mapping[str, Any] = {
    "collections.OrderedDict": PickledDict,
    "torch.Size": tuple,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "_codecs.encode": _Call(_bytes),  # how pickles of protocol 2 hold bytes
    "torch._utils._rebuild_tensor_v2": _Call(_tensor),
    "torch._utils._rebuild_parameter": _Call(_parameter),
    **{f"torch.{name}Storage": dtype for name, dtype in DTYPES.items()},
    **{str(dtype): dtype for dtype in DTYPES.values()},
}
"""By name. A pickle can call only these functions and classes and the stubs, and can change none of them."""
