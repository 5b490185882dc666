"""One rank of `yolo plan --verify`: time a list of strategies.

Started by the launcher; the first rank writes the measurements as one JSON file.
"""

import argparse
import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from yolo.calibration.strategies import Strategy
from yolo.calibration.strategy_timing import measure
from yolo.calibration.synthetic_step import TimingJob
from yolo.recipe import prepare
from yolo.training.engine.distributed import (
    init_distributed,
    local_world_size_from_launcher,
    shutdown_distributed,
    world_size_from_launcher,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure strategies, given as JSON in base64: [{"name", "overrides", "period", "settle_steps"}]."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--strategies", required=True, help="JSON in base64")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--local_rank")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    job = TimingJob(options.recipe, tuple(options.overrides), options.classes)
    sizes = world_size_from_launcher(), local_world_size_from_launcher()
    ranks = init_distributed(prepare(job.recipe, job.overrides, *sizes).resolved.recipe)
    timings = []
    for each in json.loads(base64.b64decode(options.strategies)):
        strategy = Strategy(label=each["name"], **each | {"overrides": tuple(each["overrides"])})
        if ranks.is_main:
            print(f"measuring: {strategy.label}", flush=True)
        timings.append(asdict(measure(strategy, job, options.steps, ranks)))
    if ranks.is_main:
        temporary = options.out.with_name(f".{options.out.name}.part")
        temporary.write_text(json.dumps(timings), encoding="utf-8")
        temporary.replace(options.out)
    shutdown_distributed()


if __name__ == "__main__":
    main()
