"""Everything against the plain baseline: `python -m yolo.bench.speed recipes/bccd.yaml data.root=/path/to/bccd`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from yolo.bench.command_line import add_out, bench_progress, check_files, recipe_parser
from yolo.bench.results import machine_facts
from yolo.bench.speed.evaluation import compare_evaluation
from yolo.bench.speed.loading import compare_loading
from yolo.bench.speed.speed_ratios import SpeedRatio, SpeedResults
from yolo.bench.speed.training import (
    ONE_PROCESS,
    call,
    comparisons,
    seconds_waited,
    train_both,
)
from yolo.errors import BenchError, exit_code_of
from yolo.launch.command import launch_module
from yolo.launch.port import reserved_port
from yolo.recipe import ResolvedRecipe, prepare

SECTIONS = ("steps", "loading", "evaluation", "training")
LOADER_SIZE = 640


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write speed.json and speed.png; returns the exit code, 2 for an error that the user can fix."""
    parser = recipe_parser("yolo.bench.speed", __doc__)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument(
        "--epochs", type=int, default=4, help="of the training runs; 0: the recipe's"
    )
    parser.add_argument("--images", type=int, default=5000, help="evaluated; default 5000")
    parser.add_argument("--seconds", type=float, default=4.0, help="per round of a loader")
    add_out(parser)
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "bench", "stopped; finished sections are kept")


def _bench(options: argparse.Namespace) -> None:
    sections = options.sections.split(",")
    if unknown := [name for name in sections if name not in SECTIONS]:
        raise BenchError(f"--sections {unknown[0]}: expected some of {', '.join(SECTIONS)}")
    prepared = prepare(options.recipe, [*ONE_PROCESS, *options.overrides], 1)
    check_files(prepared.resolved)
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    cpu = torch.backends.cpu.get_cpu_capability()
    results = SpeedResults(machine_facts(f"torch {torch.__version__}", cpu, *gpu))
    counts = {"training": 2 * options.rounds}
    with bench_progress() as progress:
        total = sum(counts.get(section, 1) for section in sections)
        task = progress.add_task("", total=total)

        def advance() -> None:
            progress.advance(task)

        for section in sections:
            progress.update(task, description=section)
            if section == "steps":
                found = [_compare_steps(options, prepared.resolved, results)]
            elif section == "loading":
                sized = prepared.with_values(f"model.image_size={LOADER_SIZE}").resolved.recipe
                found = compare_loading(sized, options.rounds, options.seconds)
            elif section == "evaluation":
                found = [compare_evaluation(options.images, options.rounds)]
            else:
                short = [f"train.epochs={options.epochs}"] if options.epochs else []
                settings = [*ONE_PROCESS, *short, *options.overrides]
                runs = train_both(
                    options.recipe, settings, prepared.resolved, options.rounds, advance
                )
                for side, parts in results.step_seconds.items():  # for the figure
                    parts["waiting for images"] = seconds_waited(side, runs[side][-1])
                found = comparisons(runs)
            results.comparisons += found
            for ratio in found:
                progress.console.print(ratio.line(), soft_wrap=True)
            written = results.write(options.out)
            if section not in counts:
                advance()
    print("wrote", ", ".join(map(str, written)))


def _compare_steps(
    options: argparse.Namespace, resolved: ResolvedRecipe, results: SpeedResults
) -> SpeedRatio:
    arguments = ["--rounds", str(options.rounds), str(options.recipe)]
    arguments += [*ONE_PROCESS, *options.overrides]
    with (
        tempfile.TemporaryDirectory() as folder,
        reserved_port(resolved.recipe.cluster) as port,
    ):
        out = Path(folder) / "steps.json"
        arguments = ["--out", str(out), *arguments]
        launch = launch_module(resolved, "yolo.bench.speed.steps", arguments, port)
        call(launch.command, launch.environment)
        found: dict[str, Any] = json.loads(out.read_text())
    results.step_seconds = found["step_seconds"]
    results.facts |= {name: found[name] for name in ("precision", "peak_memory_bytes", "gpu")}
    ours, baseline = (tuple(found["images_per_second"][side]) for side in ("ours", "baseline"))
    recipe = resolved.recipe
    name = f"a step: yolov5{recipe.model.variant}, {recipe.train.global_batch} x {recipe.model.image_size} px"
    return SpeedRatio(name, "images/s", True, ours, baseline, found["precision"])


if __name__ == "__main__":
    sys.exit(main())
