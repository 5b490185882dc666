"""Several cases in one launch, each as a run of its own would find DeepSpeed."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import deepspeed.comm.comm as deepspeed_comm
from deepspeed.runtime import torch_autocast

from tests.workers.arguments import worker_arguments
from yolo.training.engine.distributed import shutdown_distributed


def forget() -> None:
    """What DeepSpeed keeps for the whole process."""
    gc.collect()
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    deepspeed_comm.comms_logger.enabled = False


def report_each(take: Callable[[list[str], Path], Any]) -> None:
    """A worker's main: what `take` finds under the overrides of each case, with a folder to write in; the first rank reports.

    A case's overrides are separated by spaces.
    """
    parser = worker_arguments()
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    found = {}
    for case in options.cases:
        print(case, flush=True)  # the last one said is the one that failed
        found[case] = take(case.split(), options.out.parent)
        forget()
    if dist.get_rank() == 0:
        options.out.write_text(json.dumps(found))
    shutdown_distributed()
