"""Ranks that sum a number over and over, until one of them behaves as `--rank-1` (or `--rank-0`) says."""

import argparse
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from yolo.recipe import prepare
from yolo.training.engine.distributed import init_distributed
from yolo.training.resilience.heartbeat import HeartbeatMonitor, RanksLost

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_SECONDS = 4.0
STEPS = 3


def behave(how: str, standings: HeartbeatMonitor) -> None:
    if how == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "reads":
        standings.set_phase("waiting for images of step 3")
        time.sleep(3600)
    elif how == "stumbles":
        raise RuntimeError("shapes do not match")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank")
    parser.add_argument("--rank-0", default="")
    parser.add_argument("--rank-1", default="")
    parser.add_argument(
        "--unraised", action="store_true", help="as with NCCL: only the thread sees it"
    )
    parser.add_argument("--run", type=Path, required=True)
    options = parser.parse_args()
    group = 600.0 if options.unraised else TIMEOUT_SECONDS
    overrides = [f"communication.timeout_seconds={group}", "precision.dtype=fp32"]
    ranks = init_distributed(
        prepare(REPOSITORY / "recipes" / "demo.yaml", overrides).resolved.recipe
    )
    if options.unraised:
        ranks = replace(ranks, device=torch.device("meta"))
    standings = HeartbeatMonitor.start(ranks, options.run, TIMEOUT_SECONDS)
    try:
        with standings.attribute_failure():
            for step in range(1, STEPS + 1):
                standings.set_phase(f"computing step {step}")
                if step == STEPS:
                    behave(getattr(options, f"rank_{min(ranks.rank, 1)}"), standings)
                standings.set_phase(f"exchanging gradients of step {step}", waits=True)
                dist.all_reduce(torch.ones(1))
    except RanksLost as error:
        print(f"rank {ranks.rank} says={not error.is_reported}: {error}", flush=True)
        os._exit(error.exit_code)
    except RuntimeError as error:
        print(f"passed: {error}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
