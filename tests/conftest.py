import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.forking.popen import LAUNCHER
from tests.forking.server import run_forked
from yolo.emulation.cluster import EmulatedCluster
from yolo.errors import BenchError

REPOSITORY = Path(__file__).parents[1]
WORKERS = Path(__file__).parent / "workers"
ON_A_PROCESSOR = os.environ | {
    "DS_ACCELERATOR": "cpu",
    "PYTHONPATH": str(REPOSITORY),
    "OMP_NUM_THREADS": "1",
}
"""The environment of what tests start."""


def pytest_configure() -> None:
    """If these run under nohup(1), what they start would ignore SIGHUP too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest first: whoever runs files side by side is then done with all at about one time.

    A mark `slow(60)` says about how many seconds; without a number 5. What builds a cluster is slow by itself.
    """
    seconds: Counter[Path] = Counter()
    for item in items:
        if "cluster_can_be_built" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow, append=True)
        if mark := item.get_closest_marker("slow"):
            seconds[item.path] += mark.args[0] if mark.args else 5
    items.sort(key=lambda item: -seconds[item.path])


LIBRARIES_ALONE = (
    "import ruamel.yaml, pydantic\nclass Section(pydantic.BaseModel):\n    number: int = 1"
)
"""What every command of ours imports, and a first model: the measure of how long a command without torch may take."""


def processor_seconds(code: str) -> float:
    """Of a Python program, started anew in the repository; the least of three, since others run beside it."""
    least = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least


HAS_CPU_ADAM = " " not in sys.prefix
"""DeepSpeed's CPU Adam is compiled at its first use, and torch's command for that breaks where its own path has a space."""


def let_ctrl_c_end_it() -> None:
    """In a process to be: a shell lets what it starts in the background ignore SIGINT, and tests may be started so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


needs_a_cluster = pytest.mark.usefixtures("cluster_can_be_built")


@pytest.fixture(scope="session")
def cluster_can_be_built() -> None:
    """Skips where emulated hosts cannot be built, and says why."""
    try:
        with EmulatedCluster(2, 100):
            pass
    except BenchError as error:
        pytest.skip(f"no emulated cluster: {error}")


def free_port() -> int:
    """A port that nobody listens on, below those that Linux hands out by itself until it is used."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def as_yolo(demo: Path, root: Path) -> tuple[str, ...]:
    """The demo's data in the public YOLOv5's format, and the overrides that name it."""
    for split in ("train", "val"):
        content = json.loads((demo / "annotations" / f"instances_{split}.json").read_text())
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for image in content["images"]:
            name = image["file_name"]
            shutil.copy(demo / "images" / name, root / "images" / split / name)
            lines = [
                f"{box['category_id'] - 1} {(x + w / 2) / image['width']} {(y + h / 2) / image['height']} "
                f"{w / image['width']} {h / image['height']}"
                for box in content["annotations"]
                if box["image_id"] == image["id"]
                for x, y, w, h in [box["bbox"]]
            ]
            label = (root / "labels" / split / name).with_suffix(".txt")
            label.write_text("\n".join(lines))
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: [circle, square, triangle, star]\n"
    )
    files = ("data.train=data.yaml", "data.val=data.yaml")
    return (f"data.root={root}", "data.format=yolo", *files)


@pytest.fixture
def launch_worker(tmp_path: Path) -> Callable[..., Any]:
    """Start a script of tests/workers on 2 ranks, forked by DeepSpeed's launcher; what rank 0 wrote as JSON comes back."""
    return _launcher(tmp_path)


@pytest.fixture(scope="module")
def launch_worker_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The same, for several tests of one file that look at one launch."""
    return _launcher(tmp_path_factory.mktemp("worker"))


def _launcher(tmp_path: Path) -> Callable[..., Any]:
    def launch(script: str, *arguments: str, ranks: int = 2) -> Any:
        out = tmp_path / f"{script}-{len(list(tmp_path.iterdir()))}.json"
        worker = (str(WORKERS / f"{script}.py"), "--out", str(out), *arguments)
        ran = run_forked(
            launcher_command(ranks, *worker), REPOSITORY, ON_A_PROCESSOR, out.with_suffix(".log")
        )
        assert ran.returncode == 0, ran.stdout[-5000:]
        return json.loads(out.read_text())

    return launch


def launcher_command(ranks: int, *script: str) -> list[str]:
    """DeepSpeed's launcher for a script of a number of ranks."""
    port = str(free_port())
    options = ("--num_accelerators", str(ranks), "--master_port", port, "--log_level", "error")
    return [LAUNCHER, *options, *script]
