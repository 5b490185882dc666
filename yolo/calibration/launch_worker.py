"""Run a worker of this package on the machines of a recipe, through the launcher, and read its result."""

import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from yolo.errors import LaunchError
from yolo.launch.command import launch_module
from yolo.recipe import ResolvedRecipe

Result = TypeVar("Result")


def run_worker(
    resolved: ResolvedRecipe, module: str, arguments: Sequence[str], read: Callable[[Path], Result]
) -> Result:
    """Start a module whose first rank writes the file given by `--out`, wait for it, and read the file.

    Raises LaunchError if it ends without a result.
    """
    with tempfile.TemporaryDirectory(prefix="yolo-ranks-") as folder:
        out = Path(folder) / "answer.json"
        launch = launch_module(resolved, module, ["--out", str(out), *arguments])
        process = psutil.Popen(
            launch.command,
            env=os.environ | dict(launch.environment),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            for each in [*process.children(recursive=True), process]:
                each.terminate()
            raise
        if code != 0 or not out.exists():
            raise LaunchError(f"{module} ended with exit code {code}; see its output above")
        return read(out)
