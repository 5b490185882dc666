import os
import shutil

import pytest

from yolo.bench.cluster import TOOLS, EmulatedCluster
from yolo.errors import BenchError


def why_not_here() -> str | None:
    """Why no cluster can be built on this machine."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)}: no such program"
    if os.geteuid() != 0:
        return "not root"
    try:
        with EmulatedCluster(2, 100):
            return None
    except BenchError as error:
        return str(error)


REASON = why_not_here()
needs_a_cluster = pytest.mark.skipif(REASON is not None, reason=f"no emulated cluster: {REASON}")
