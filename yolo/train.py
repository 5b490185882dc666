"""The program of each rank, started by the launcher: `deepspeed --module yolo.train --recipe R [section.key=value ...]`."""

import argparse
import contextlib
import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from yolo.errors import YoloError
from yolo.exit_codes import LEFT, STOPPED
from yolo.launch.parent_death import die_with_parent
from yolo.launch.terminal import survive_closed_terminal
from yolo.training.engine.launched import prepare_on_rank
from yolo.training.resilience.fencing import VARIABLE
from yolo.training.resilience.rank_status import RankStatusFile

ERROR_DELAY_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a recipe on this rank; returns the exit code."""
    parser = argparse.ArgumentParser(prog="yolo.train", description=__doc__)
    parser.add_argument("--recipe", type=Path, required=True, help="the recipe's YAML file")
    parser.add_argument(
        "--run",
        type=Path,
        help="the run's folder; `latest` beside it points at it once it has weights (default: runs/<recipe>/<UTC time>)",
    )
    parser.add_argument("--start", help="the token of this start; given by `yolo train`")
    parser.add_argument("--local_rank", type=int, help="given by the launcher")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_args(arguments)
    survive_closed_terminal()
    if options.local_rank is not None:
        die_with_parent()  # a killed launcher does not end its ranks
    if options.start is not None:
        os.environ[VARIABLE] = options.start
    # Torch's C++ messages on a lost connection, with a stack each, do not help a user.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Without a launcher there is no status to write; `init_distributed` raises the error.
    is_launched = options.run is not None and "MASTER_PORT" in os.environ
    record = _record(options.run) if is_launched else None
    try:
        prepared = prepare_on_rank(options.recipe, options.overrides)
    except YoloError as error:
        return _fail(error, record)

    # Torch and DeepSpeed, below, take seconds to import, a fifth of it in garbage collection. Frozen objects are not
    # scanned during training either (0.16 s each time), nor copied by forked loaders.
    gc.disable()
    import torch._dynamo  # noqa: F401  # torch's optimizers import it at their first step anyway

    from yolo.training.loop.setup import train
    from yolo.training.resilience.heartbeat import RanksLost
    from yolo.training.resilience.preemption import GracefulStop

    gc.freeze()
    gc.enable()
    try:
        train(prepared, options.run)
        return 0
    except GracefulStop:
        if record is not None:
            record.write_exit(LEFT)
        # The launcher reports any other code as an error. `yolo train` reads the record.
        is_told = options.start is not None and record is not None and record.exit is not None
        return 0 if is_told else LEFT
    except RanksLost as error:
        if not error.is_reported:
            print(f"yolo: {error}", file=sys.stderr, flush=True)
        _end_at_once(error.exit_code)
    except YoloError as error:
        return _fail(error, record)
    except KeyboardInterrupt:
        return STOPPED
    except BaseException:
        if record is not None:
            record.write_exit(1, traceback.format_exc())
        raise


def _record(run: Path) -> RankStatusFile:
    """Start this rank's status file, and record crashes and an early SIGTERM in it."""
    record = RankStatusFile.of_this_process(run)
    record.write_phase("starting")
    with contextlib.suppress(OSError):
        faulthandler.enable(record.fault.open("w", encoding="utf-8"))

    def ended_while_starting(number: int, frame: FrameType | None) -> None:
        record.write_exit(128 + number, "asked to end while starting")
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, ended_while_starting)
    return record


def _fail(error: YoloError, record: RankStatusFile | None) -> int:
    """Report an error that the user can fix; returns the exit code."""
    if os.environ.get("RANK", "0") != "0":
        # Most errors are the same on all ranks. The main rank prints at once, and the launcher then stops the others;
        # another rank that fails by itself prints a little later.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(ERROR_DELAY_SECONDS)
    if record is not None:
        record.write_exit(error.exit_code, str(error))
    print(f"yolo: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def _end_at_once(code: int) -> NoReturn:
    """End without the interpreter's clean-up: torch's threads that wait for lost ranks would block it."""
    for worker in multiprocessing.active_children():
        worker.kill()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
