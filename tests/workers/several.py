"""Several cases in one launch, each as a run of its own would find DeepSpeed."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import deepspeed.comm.comm as deepspeed_comm
from deepspeed.runtime import torch_autocast


def forget() -> None:
    """What DeepSpeed keeps for the whole process."""
    gc.collect()
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    deepspeed_comm.comms_logger.enabled = False


def of_each(cases: Sequence[str], take: Callable[[list[str]], Any]) -> dict[str, Any]:
    """What `take` finds under the overrides of each case, which are separated by spaces."""
    found = {}
    for case in cases:
        print(case, flush=True)  # the last one said is the one that failed
        found[case] = take(case.split())
        forget()
    return found
