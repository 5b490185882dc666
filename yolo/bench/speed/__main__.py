"""Everything against the plain baseline: `python -m yolo.bench.speed recipes/bccd.yaml data.root=/path/to/bccd`."""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from yolo.bench.progress import bench_progress
from yolo.bench.speed.evaluation import compare_evaluation
from yolo.bench.speed.loading import compare_loading
from yolo.bench.speed.results import SpeedRatio, SpeedResults, write_results
from yolo.bench.speed.training import ONE_PROCESS, call, compare_training
from yolo.data.open import load_split
from yolo.errors import BenchError, exit_code_of
from yolo.launch.command import launch_module
from yolo.preflight.local import missing_here
from yolo.recipe import prepare

SECTIONS = ("steps", "loading", "evaluation", "training")
LOADER_SIZE = 640


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write speed.json and speed.png; returns the exit code, 2 where the user has to put something right."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.speed", description=__doc__)
    parser.add_argument("recipe", type=Path, help="the recipe's YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument(
        "--epochs", type=int, default=4, help="of the training runs; 0: the recipe's"
    )
    parser.add_argument("--images", type=int, default=5000, help="evaluated; default 5000")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a loader's round")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "bench", "stopped; what was measured is kept")


def _bench(options: argparse.Namespace) -> None:
    sections = options.sections.split(",")
    if unknown := [name for name in sections if name not in SECTIONS]:
        raise BenchError(f"--sections {unknown[0]}: expected some of {', '.join(SECTIONS)}")
    overrides = [*ONE_PROCESS, *options.overrides]
    resolved = prepare(options.recipe, overrides, 1).resolved
    if lack := list(missing_here(resolved)):
        raise BenchError("\n".join(lack))
    results = SpeedResults(_machine())
    counts = {"training": 2 * options.rounds}
    with bench_progress() as progress:
        total = sum(counts.get(section, 1) for section in sections)
        task = progress.add_task("", total=total)

        def advance() -> None:
            progress.advance(task)

        def tell(found: Sequence[SpeedRatio]) -> None:
            results.comparisons += found
            for each in found:
                progress.console.print(each.line(), soft_wrap=True)
            write_results(results, options.out)

        for section in sections:
            progress.update(task, description=section)
            if section == "steps":
                tell([_steps(options, overrides, results)])
            elif section == "loading":
                settings = [*overrides, f"model.image_size={LOADER_SIZE}"]
                at_size = prepare(options.recipe, settings, 1).resolved.recipe
                records = load_split(at_size.data, "train").records
                tell(compare_loading(at_size, records, options.rounds, options.seconds))
            elif section == "evaluation":
                tell([compare_evaluation(options.images, options.rounds)])
            else:
                short = [f"train.epochs={options.epochs}"] if options.epochs else []
                runs = compare_training(
                    options.recipe, [*short, *options.overrides], options.rounds, advance
                )
                _add_waits(results, runs.ours, runs.baseline)
                tell(runs.comparisons())
            if section not in counts:
                advance()
    print("wrote", ", ".join(map(str, write_results(results, options.out))))


def _steps(
    options: argparse.Namespace, overrides: Sequence[str], results: SpeedResults
) -> SpeedRatio:
    resolved = prepare(options.recipe, overrides, 1).resolved
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "steps.json"
        arguments = [*("--out", str(out), "--rounds", str(options.rounds))]
        launch = launch_module(
            resolved, "yolo.bench.speed.steps", [*arguments, str(options.recipe), *overrides]
        )
        call(launch.command, dict(launch.environment))
        found: dict[str, Any] = json.loads(out.read_text())
    results.step_seconds = found["step_seconds"]
    results.facts |= {name: found[name] for name in ("precision", "peak_memory_bytes", "gpu")}
    rates = found["images_per_second"]
    recipe = resolved.recipe
    name = f"a step: yolov5{recipe.model.variant}, {recipe.train.global_batch} x {recipe.model.image_size} px"
    return SpeedRatio(
        name,
        "images/s",
        True,
        tuple(rates["ours"]),
        tuple(rates["baseline"]),
        note=found["precision"],
    )


def _add_waits(
    results: SpeedResults, ours: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]
) -> None:
    """How long a step waited for its images in the last run, for the picture."""
    if not results.step_seconds:
        return
    waits = {
        "ours": ours[-1]["data_wait_seconds_per_step"],
        "baseline": baseline[-1]["seconds"]["waiting for images"] / baseline[-1]["steps"],
    }
    for side, parts in results.step_seconds.items():
        parts["waiting for images"] = waits[side]


def _machine() -> str:
    words = [f"{os.cpu_count()} cores, {platform.machine()}", f"torch {torch.__version__}"]
    words.append(torch.backends.cpu.get_cpu_capability())
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


if __name__ == "__main__":
    sys.exit(main())
