"""A host's link cut for a while, and for good."""

import time
from collections.abc import Callable
from typing import Any

from yolo.bench.chaos.job import ChaosRun

CUT_SECONDS = 20.0
TIMEOUT_SECONDS = 15.0
"""`communication.timeout_seconds` of these runs: less than the cut, so that it must be survived by starting again."""
MARGIN_SECONDS = 10.0
"""What a run may take beyond the timeout until it has ended."""


def cut_for_a_while(job: ChaosRun, tell: Callable[[str], None]) -> dict[str, Any]:
    """Cut the second host off for 20 s in the middle of a run; what became of it."""
    started = job.start("cut-for-a-while", f"communication.timeout_seconds={TIMEOUT_SECONDS:g}")
    host = job.cluster.hosts[1]
    started.wait_for_a_checkpoint()
    job.cluster.cut(host)
    time.sleep(CUT_SECONDS)
    job.cluster.restore(host)
    tell(f"{host.name} was cut off for {CUT_SECONDS:g} s")
    started.wait()
    run = started.run
    is_finished = run is not None and run.finished.exists()
    return {
        "cut_seconds": CUT_SECONDS,
        "timeout_seconds": TIMEOUT_SECONDS,
        "finished": is_finished,
        "started_again": started.said.count("going on after"),
        "bit_identical": is_finished and started.weights() == job.expected_weights(),
    }


def cut_for_good(job: ChaosRun, tell: Callable[[str], None]) -> dict[str, Any]:
    """Cut the second host off and leave it so; how long the run takes to end, and whether it names the host."""
    settings = (f"communication.timeout_seconds={TIMEOUT_SECONDS:g}", "cluster.restarts=0")
    started = job.start("cut-for-good", *settings)
    host = job.cluster.hosts[1]
    started.wait_for_a_checkpoint()
    job.cluster.cut(host)
    cut = time.monotonic()
    started.wait()
    seconds = time.monotonic() - cut
    job.cluster.restore(host)
    tell(f"{host.name} was cut off for good; the run ended after {seconds:.1f} s")
    last = "\n".join(started.said.splitlines()[-12:])
    return {
        "timeout_seconds": TIMEOUT_SECONDS,
        "ended_after_seconds": round(seconds, 1),
        "in_time": seconds <= TIMEOUT_SECONDS + MARGIN_SECONDS,
        "names_the_host": host.name in last,
        "last_words": last,
    }
