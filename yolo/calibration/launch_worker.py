"""Run the worker on the machines of a recipe, through the launcher, and read its result."""

import os
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from yolo.errors import LaunchError
from yolo.launch.command import launch_module
from yolo.launch.port import reserved_port
from yolo.recipe import ResolvedRecipe

MODULE = "yolo.calibration.worker"


def run_worker(resolved: ResolvedRecipe, arguments: Sequence[str]) -> str:
    """Start the worker, wait for it, and return the JSON that its first rank wrote.

    Raises LaunchError if it ends without a result.
    """
    with (
        tempfile.TemporaryDirectory(prefix="yolo-ranks-") as folder,
        reserved_port(resolved.recipe.cluster) as port,
    ):
        out = Path(folder) / "answer.json"
        launch = launch_module(resolved, MODULE, ["--out", str(out), *arguments], port)
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
            raise LaunchError(f"{MODULE} ended with exit code {code}; see its output above")
        return out.read_text(encoding="utf-8")
