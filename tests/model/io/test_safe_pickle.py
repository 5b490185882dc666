"""Nothing in a checkpoint runs: malicious pickles, each refused with its reason."""

import codecs
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yolo.cli import main
from yolo.errors import WeightsError
from yolo.model.io.safe_pickle import PickledTensor, open_pickled

END = b"."
STOWED = "stowed"


def named(module: str, name: str) -> bytes:
    """The opcodes that push what a name stands for."""
    return pickle.PROTO + b"\x04" + said(module) + said(name) + pickle.STACK_GLOBAL


def said(value: Any) -> bytes:
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def call(module: str, name: str, *arguments: Any) -> bytes:
    return named(module, name) + said(arguments) + pickle.REDUCE


def built(class_module: str, class_name: str, state: bytes) -> bytes:
    """An object of a class, with a state."""
    return named(class_module, class_name) + b")" + pickle.NEWOBJ + state + pickle.BUILD


def in_a_dict(key: str, value: bytes) -> bytes:
    return b"}" + said(key) + value + pickle.SETITEM


def written(path: Path, body: bytes, records: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body + END)
        for name, content in (records or {}).items():
            archive.writestr(f"archive/{name}", content)
    return path


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """Why a pickle is refused. It has no effect: no file, no module, only an error."""

    def refuse(body: bytes, records: dict[str, bytes] | None = None) -> str:
        path = written(tmp_path / "bad.pt", said({}))
        codecs.lookup("raw_unicode_escape")  # so that what reading itself imports is there
        with open_pickled(path):
            pass
        written(path, body, records)
        modules = dict(sys.modules)
        with pytest.raises(WeightsError) as caught, open_pickled(path):
            pass
        assert sys.modules == modules
        assert [left.name for left in tmp_path.iterdir()] == ["bad.pt"]
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and "\n" not in message
        return message

    return refuse


CALLS = [
    ("posix", "system", ("touch stowed",)),
    ("os", "system", ("touch stowed",)),
    ("subprocess", "Popen", ("touch stowed",)),
    ("builtins", "exec", ("open('stowed', 'w')",)),
    ("builtins", "eval", ("open('stowed', 'w')",)),
    ("__builtin__", "eval", ("open('stowed', 'w')",)),
    ("builtins", "getattr", ("", "join")),
    ("builtins", "open", ("stowed", "w")),
    ("functools", "partial", (1,)),
    ("operator", "attrgetter", ("x",)),
    ("torch", "load", ("stowed",)),
    ("torch", "save", ({}, "stowed")),
    ("torch.hub", "load", ("x", "y")),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", (1, 2, 3, 4)),
    ("torch.storage", "_load_from_bytes", (b"x",)),
    ("numpy", "save", ("stowed", 1)),
    ("yolo.model.io.weights", "save_weights", ("stowed",)),
    ("models_of_another", "Thing", ()),
    ("", "system", ()),
]


@pytest.mark.parametrize(("module", "name", "arguments"), CALLS)
def test_a_name_that_no_checkpoint_is_made_of_is_refused(
    refusal: Callable[..., str], module: str, name: str, arguments: tuple[Any, ...]
) -> None:
    message = refusal(call(module, name, *arguments))
    assert f"its pickle wants {module}.{name}, which is not among what a YOLOv5" in message
    assert "Nothing of it was run; take the weights from their publisher" in message


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.nn.modules.utils", "_pair"),
        ("torch.nn.modules.module", "register_module_forward_hook"),
        ("torch.nn.modules.module", "torch.save"),
        ("torch.nn.modules", "container.Sequential"),
        ("models.common", "os.system"),
        ("models.experimental", "attempt_load"),
        ("utils.general", "check_requirements"),
        ("ultralytics.utils", "eval"),
        ("pathlib", "os"),
    ],
)
def test_a_function_of_a_known_module_is_refused(
    refusal: Callable[..., str], module: str, name: str
) -> None:
    assert f"wants {module}.{name}, which is not named as a class is" in refusal(call(module, name))


def test_what_hides_in_the_state_of_a_module_is_refused(refusal: Callable[..., str]) -> None:
    hidden = in_a_dict("_forward_hooks", in_a_dict("0", call("posix", "system", "touch stowed")))
    message = refusal(in_a_dict("model", built("models.yolo", "DetectionModel", hidden)))
    assert "its pickle wants posix.system" in message


def test_a_reduce_of_pythons_own_pickle_is_refused(refusal: Callable[..., str]) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (f"open({STOWED!r}, 'w')",)

    for protocol in (0, 2, 5):
        message = refusal(pickle.dumps({"model": Harm()}, protocol)[:-1])
        assert ".exec, which is not among" in message


def test_a_known_class_is_neither_imported_nor_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module is on the path, and would leave a file."""
    (tmp_path / "models").mkdir()
    harm = f"open({str(tmp_path / STOWED)!r}, 'w')"
    (tmp_path / "models" / "__init__.py").write_text(
        f"class Evil:\n    def __setstate__(self, state): {harm}\n"
        f"    def __init__(self, *_): {harm}\n    def __setitem__(self, *_): {harm}\n{harm}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    evil = built("models", "Evil", said({"x": 1})) + b"0" + call("models", "Evil", 1)
    path = written(tmp_path / "x.pt", evil)
    modules = dict(sys.modules)
    with open_pickled(path) as file:
        assert file.content.class_name == "Evil"
        assert file.content.arguments == (1,)
    assert sys.modules == modules
    assert not (tmp_path / STOWED).exists()


STORAGE = said("storage"), named("torch", "FloatStorage"), said("0"), said("cpu")
NUMBERS = {"data/0": b"\0" * 24}


def tensor(elements: int = 6, offset: Any = 0, size: Any = (2, 3), stride: Any = (3, 1)) -> bytes:
    """A tensor in a storage of six numbers, as torch pickles it."""
    storage = b"(" + b"".join(STORAGE) + said(elements) + b"tQ"
    arguments = b"(" + storage + b"".join(said(part) for part in (offset, size, stride, False))
    no_hooks = call("collections", "OrderedDict")
    return named("torch._utils", "_rebuild_tensor_v2") + arguments + no_hooks + b"t" + pickle.REDUCE


def test_a_tensor_within_its_storage_is_read(tmp_path: Path) -> None:
    numbers = torch.arange(6.0)
    path = written(
        tmp_path / "x.pt",
        tensor(size=(2, 2), stride=(1, 3), offset=1),
        {"data/0": numbers.numpy().tobytes()},
    )
    with open_pickled(path) as file:
        assert file.tensor("x", file.content).tolist() == [[1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (tensor(elements=7), "7 numbers in 24 bytes"),
        (tensor(elements=-1), "a storage of -1 numbers"),
        (tensor(offset=-1), "a tensor of size"),
        (tensor(stride=(-3, 1)), "a tensor of size"),
        (tensor(size=(2,)), "a tensor of size"),
        (tensor(size=(2.0, 3)), "a tensor of size"),
        (tensor(size=(True, 3)), "a tensor of size"),
        (tensor(offset="0"), "a tensor of size"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(
    refusal: Callable[..., str], hostile: bytes, reason: str
) -> None:
    assert reason in refusal(hostile, NUMBERS)


@pytest.mark.parametrize(
    "claim",
    [
        {"offset": 1},
        {"size": (3, 3)},
        {"stride": (4, 1)},
        {"stride": (0, 9)},
        {"size": (2, 4), "stride": (0, 1)},
        {"size": (10**9, 10**9), "stride": (0, 0)},
    ],
)
def test_a_tensor_beyond_its_storage_is_refused_when_it_is_used(
    tmp_path: Path, claim: dict[str, Any]
) -> None:
    """Not before: an expanded tensor, larger than its storage, is sound as long as nothing reads it."""
    with open_pickled(written(tmp_path / "x.pt", tensor(**claim), NUMBERS)) as file:
        for use in (file.shape, file.tensor):
            with pytest.raises(WeightsError, match=r"x\.pt: a\.b has size .* beyond the 6 numbers"):
                use("a.b", file.content)


def test_hooks_of_tensors_and_parameters_are_refused(refusal: Callable[..., str]) -> None:
    hooks = said({"0": 1})
    plain = tensor()
    none = call("collections", "OrderedDict") + b"t" + pickle.REDUCE
    assert plain.endswith(none)
    hooked = plain.removesuffix(none) + hooks + b"t" + pickle.REDUCE
    assert "a tensor with hooks" in refusal(hooked, NUMBERS)
    parameter = named("torch._utils", "_rebuild_parameter")
    arguments = b"(" + plain + said(True) + hooks + b"t"
    assert "a tensor with hooks" in refusal(parameter + arguments + pickle.REDUCE, NUMBERS)
    wrapped = parameter + said((5, True, None)) + pickle.REDUCE
    assert "a parameter that is no tensor" in refusal(wrapped, NUMBERS)


@pytest.mark.parametrize(
    "victim",
    [
        tensor(),
        named("torch", "FloatStorage"),
        named("torch", "float16"),
        named("torch._utils", "_rebuild_tensor_v2"),
        named("collections", "OrderedDict"),
        named("models.yolo", "Model"),
        named("builtins", "set"),
        named("torch", "Size"),
    ],
)
@pytest.mark.parametrize("state", [{"dtype": 1, "size": (99,)}, (None, {"dtype": 1}), [1, 2, 3, 4]])
def test_what_a_name_stands_for_cannot_be_changed(
    refusal: Callable[..., str], tmp_path: Path, victim: bytes, state: Any
) -> None:
    assert "not a valid checkpoint" in refusal(victim + said(state) + pickle.BUILD, NUMBERS)
    with open_pickled(written(tmp_path / "x.pt", tensor(), NUMBERS)) as file:
        assert isinstance(file.content, PickledTensor)
        assert file.tensor("x", file.content).shape == (2, 3)


def test_modules_within_themselves_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    itself = named("models.yolo", "Model") + b")" + pickle.NEWOBJ + pickle.BINPUT + b"\x63"
    again = pickle.BINGET + b"\x63"
    children = in_a_dict("a", again)[:-1] + b"s" + said("b") + again + b"s"
    looped = itself + in_a_dict("_modules", children) + pickle.BUILD
    path = written(tmp_path / "x.pt", in_a_dict("model", looped))
    assert main(["import", str(path), str(tmp_path / "out.safetensors")]) == 2
    assert "is no module of torch with fewer than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x10\0\0\0\0\0\0\0{", "is a safetensors file, not a checkpoint"),
        (b"not a zip", "neither safetensors nor a file of torch.save"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=message), open_pickled(tmp_path / "x.pt"):
        pass


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_a_torn_or_damaged_file_is_one_clear_line(tmp_path: Path, at: float) -> None:
    path = tmp_path / "x.pt"
    torch.save({"model": {"a": torch.rand(1000)}}, path)
    whole = path.read_bytes()
    place = int(len(whole) * at)
    for broken in (whole[:place], whole[:place] + b"\xff" * 40 + whole[place + 40 :]):
        path.write_bytes(broken)
        with pytest.raises(WeightsError) as caught, open_pickled(path) as file:
            file.tensor("a", file.content["model"]["a"])
        assert "\n" not in str(caught.value)


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", said(1) + END)
    with pytest.raises(WeightsError, match="compressed records"), open_pickled(tmp_path / "x.pt"):
        pass
