import json
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.forking.popen import LAUNCHER
from tests.forking.server import run_forked

REPOSITORY = Path(__file__).parents[1]
WORKERS = Path(__file__).parent / "workers"
ON_A_PROCESSOR = os.environ | {
    "DS_ACCELERATOR": "cpu",
    "PYTHONPATH": str(REPOSITORY),
    "OMP_NUM_THREADS": "1",
}
"""The environment of what tests start."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: whoever runs files side by side is then done with all at about one time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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
