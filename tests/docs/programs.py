"""The Python programs that documented commands start: forked, on little data and with few steps.

Of benchmarks and calibrations, which other tests run as commands to their end, only the arguments are checked; of the
training runs in a page's tables, the recipe with its overrides (`--dry-run`).
"""

import importlib
import io
import itertools
import json
import socketserver
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from tests.conftest import ON_A_PROCESSOR, REPOSITORY, free_port
from tests.forking.popen import LAUNCHER
from tests.forking.server import UNDRAWN, ForkedProcess
from tests.planner.conftest import measurement
from yolo.bench.chaos.__main__ import FAULTS
from yolo.bench.command_line import numbers
from yolo.bench.speed.__main__ import SECTIONS
from yolo.calibration.strategies import chosen
from yolo.errors import BenchError, RecipeError
from yolo.planner.hardware_catalog import cluster
from yolo.planner.profile import write_profile
from yolo.recipe import prepare

SMALL = (
    *("model.variant=n", "model.image_size=64", "data.workers=0"),
    *("train.epochs=1", "train.global_batch=8", "train.warmup_epochs=0"),
    *("evaluation.every_epochs=1", "checkpoint.every_epochs=1", "checkpoint.every_steps=2"),
    *("tracking.wandb.mode=disabled", "precision.dtype=fp32"),
)
"""Put behind the overrides of what trains; the last one of a key counts."""
HERE = ("cluster.hostfile=null", "cluster.processes_per_node=2", "cluster.backend=gloo")
"""The same for what runs on machines that are not there."""
FEWER = {
    "yolo.bench": (*SMALL, "--hosts", "2"),
    "yolo.bench.streaming": SMALL,
    "tests.evaluation.compare_libraries": ("--images", "20"),
}
"""Put behind a benchmark's own arguments."""
ON_EMULATED_HOSTS = "yolo.bench"
PARSED = {
    f"yolo.bench.{name.removesuffix('.__main__')}": f"yolo.bench.{name}"
    for name in (
        *("accuracy", "batch_scaling", "chaos.__main__", "communication.__main__"),
        *(
            "factors.__main__",
            "plan.__main__",
            "sharding.__main__",
            "speed.__main__",
            "tiling.__main__",
        ),
    )
}
"""Benchmarks that tests/bench runs as commands to their end, and their modules: here their arguments are parsed."""
UNTRAINED = "UNTRAINED"
"""A variable of a session whose training runs are only checked."""
UNSOUND = "`yolo check` says what is wrong with its recipe"
Command = tuple[list[str], str]
"""Words, and the folder to run them in."""
PROFILE = cluster("1x2xt4").model_copy(
    update={"backend": "gloo", "measured": [measurement(2, 1.0, 0.01)]}
)
"""Stands for what `yolo calibrate` measures."""
DRAWN = "yolo.data.demo"
"""Draws the demo data set, for which a small one stands in."""


@dataclass
class Programs:
    """What is started for the words that come through the socket."""

    has_cluster: bool
    """Whether emulated hosts can be built here; what needs them is only checked if not."""
    done: set[tuple[str, ...]] = field(default_factory=set)
    """Benchmarks and choices of tests that have run already, as they were shortened."""

    def command(self, words: Sequence[str], folder: str, trains: bool) -> Command | None:
        """What to fork in the place of a command, and where; None if it need not run.

        What is run with little to do is checked as the page has it. Raises AssertionError or BenchError for words that
        the page should not have.
        """
        python = sys.executable
        yolo = [python, "-m", "yolo"]
        match list(words):
            case ["yolo", *arguments] | ["python", "-m", "yolo", *arguments]:
                if not starts_ranks(arguments) or not is_sound(arguments, folder):
                    return [*yolo, *arguments], folder
                if arguments[0] != "train":  # tests/calibration runs it to its end
                    assert_parsed("yolo.cli", arguments)
                    if arguments[0] == "calibrate":
                        write_profile(PROFILE, Path(folder, option(arguments, "--out")))
                    return None
                return [*yolo, *small(arguments), *([] if trains else ["--dry-run"])], folder
            case ["deepspeed", "--hostfile", _, *arguments]:  # of machines that are not there
                assert is_sound(arguments, folder), UNSOUND
                port = str(free_port())
                few = ["--num_accelerators", "2", "--master_port", port, "--log_level", "error"]
                return [LAUNCHER, *few, *arguments, *SMALL, *HERE], folder
            case ["python", "-m", module, *_] if module == DRAWN:
                return None
            case ["python", "-m", module, *arguments] if module in PARSED:
                assert_parsed(PARSED[module], arguments)
                assert_known(arguments)
                assert is_sound(arguments, folder), UNSOUND
                return None
            case ["python", "-m", module, *arguments] if module in FEWER:
                assert is_sound(arguments, folder), UNSOUND
                if module == ON_EMULATED_HOSTS and not self.has_cluster:
                    return None
                return self._once([python, "-m", module, *arguments, *FEWER[module]], folder)
            case ["python", "-m", "pytest", *arguments] | ["pytest", *arguments]:
                choice = [python, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
                return self._once([*choice, *arguments], str(REPOSITORY))
            case ["python", script] if script.endswith(".py"):
                return [python, script], folder
        raise AssertionError(f"{' '.join(words)}: no stand-in for it")

    def _once(self, command: list[str], folder: str) -> Command | None:
        if tuple(command) in self.done:
            return None
        self.done.add(tuple(command))
        return command, folder


def assert_parsed(module: str, arguments: Sequence[str]) -> None:
    """Let a program parse its arguments, and nothing more. Raises AssertionError with what it says of wrong ones."""
    said = io.StringIO()
    program = importlib.import_module(module)
    with mock.patch.object(program, "exit_code_of", return_value=0), redirect_stderr(said):
        try:
            program.main(arguments)
        except SystemExit as end:
            raise AssertionError(said.getvalue()) from end


def assert_known(arguments: Sequence[str]) -> None:
    """Raises AssertionError or BenchError if a list of a benchmark names what does not exist."""
    chosen(option(arguments, "--strategies", "all"))
    known = {"--faults": FAULTS, "--sections": SECTIONS}
    for name, names in known.items():
        unknown = set(option(arguments, name, names[0]).split(",")) - set(names)
        assert not unknown, f"{name}: no {', '.join(unknown)}; expected some of {', '.join(names)}"
    for name in ("--hosts", "--bandwidths", "--calibrate", "--batches", "--seeds"):
        numbers(name, option(arguments, name, "1").replace(":", ","), float)


def option(arguments: Sequence[str], name: str, default: str = "") -> str:
    """The value of an option among the arguments of a command."""
    return dict(itertools.pairwise(arguments)).get(name, default)


def starts_ranks(arguments: Sequence[str]) -> bool:
    """Whether `yolo` trains or measures with these arguments."""
    trains = arguments[:1] in (["train"], ["calibrate"]) or "--verify" in arguments
    return trains and "--dry-run" not in arguments and "--help" not in arguments


def is_sound(arguments: Sequence[str], folder: str) -> bool:
    """Whether the recipe among the arguments, if there is one, can work with their overrides."""
    recipes = [word for word in arguments if word.endswith(".yaml") and "recipes/" in word]
    overrides = [word for word in arguments if "=" in word and not word.startswith("-")]
    try:
        for recipe in recipes:
            prepare(Path(folder, recipe), overrides)
    except RecipeError:
        return False
    return True


def small(arguments: Sequence[str]) -> list[str]:
    """The arguments of `yolo`, with little to do."""
    return [*arguments, *SMALL, *HERE, f"cluster.master_port={free_port()}"]


@contextmanager
def serve(socket: Path, has_cluster: bool) -> Iterator[Programs]:
    """Answer `stand_ins/fork_client.py`, each request in a thread."""
    programs = Programs(has_cluster)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = json.loads(self.rfile.readline())
            output = Path(request["output"])
            environment = request["environment"] | {UNDRAWN: "1"}
            environment |= {name: ON_A_PROCESSOR[name] for name in ("DS_ACCELERATOR", "PYTHONPATH")}
            environment["OMP_NUM_THREADS"] = "1"
            try:
                found = programs.command(
                    request["words"], request["folder"], UNTRAINED not in environment
                )
            except (AssertionError, BenchError) as error:
                with output.open("a") as stream:
                    print(error, file=stream)
                self.wfile.write(b"0\n1\n")
                return
            if found is None:
                self.wfile.write(b"0\n0\n")
                return
            command, folder = found
            process = ForkedProcess(command, Path(folder), environment, output)
            try:
                self.wfile.write(f"{process.pid}\n".encode())
                code = process.wait(timeout=300)
            finally:
                process.kill_all()
            self.wfile.write(f"{code if code >= 0 else 128 - code}\n".encode())

    with socketserver.ThreadingUnixStreamServer(str(socket), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield programs
        server.shutdown()
