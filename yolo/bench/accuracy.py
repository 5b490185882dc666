"""What AP does every strategy keep? `python -m yolo.bench.accuracy [section.key=value ...]`.

Trains the reference and every recipe of `recipes/communication/` with several seeds, all of one seed before the next. A
strategy is what its recipe states itself, on top of the reference. Each finished run is written at once, and the same
command runs only what is missing.
"""

import argparse
import hashlib
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from yolo.bench import results
from yolo.bench.command_line import add_out, check_files, numbers
from yolo.errors import BenchError, exit_code_of
from yolo.launch.supervisor import run_with_restarts
from yolo.planner.accuracy import (
    REFERENCE,
    SHIPPED,
    AccuracyRun,
    AccuracySetup,
    MeasuredAccuracy,
)
from yolo.planner.cost.strategies import strategy_of
from yolo.planner.dataset_size import data_of
from yolo.recipe import ResolvedRecipe, load_recipe, prepare
from yolo.recipe.load.merge import Source
from yolo.recipe.render.resolved_yaml import flatten
from yolo.training.checkpointing.run_directory import RunDirectory, new_run

RECIPES = Path("recipes/communication")
BASE = Path("recipes/demo.yaml")
LOCAL = ("data.root=", "cluster.")
"""Where things are on this machine, which a set-up does not state."""
QUIET = "tracking.wandb.mode=disabled"
COLUMNS = (
    *("strategy", "AP per seed", "mean", "against the reference", "MB per step per rank"),
    *("of the reference's bytes", "MB per run per rank"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write accuracy-<base>.json and .md; returns the exit code, 2 for an error that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.accuracy", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for all runs")
    parser.add_argument("--base", type=Path, default=BASE, help="default %(default)s")
    parser.add_argument("--strategies", default="all", help="names such as powersgd,local_steps")
    parser.add_argument("--seeds", default="0,1,2", help="default %(default)s")
    parser.add_argument(
        "--backbone",
        type=Path,
        metavar="WEIGHTS",
        help="start all runs from these weights without their detection head, which a short training must learn again",
    )
    parser.add_argument(
        "--within", type=float, metavar="AP", help="fail if a strategy loses more than this"
    )
    parser.add_argument("--ship", action="store_true", help=f"also write {SHIPPED.name} of plans")
    add_out(parser)
    options = parser.parse_args(arguments)
    command = shlex.join(
        ["python", "-m", "yolo.bench.accuracy", *(sys.argv[1:] if arguments is None else arguments)]
    )
    return exit_code_of(
        lambda: _bench(options, command), "accuracy", "stopped; finished runs are kept"
    )


def _bench(options: argparse.Namespace, command: str) -> None:
    start = (_without_head(options.backbone, options.out),) if options.backbone else ()
    strategies = {REFERENCE: ()} | {
        path.stem: stated(path) for path in sorted(RECIPES.glob("*.yaml"))
    }
    wanted = list(strategies) if options.strategies == "all" else options.strategies.split(",")
    if unknown := [name for name in wanted if name not in strategies]:
        raise BenchError(f"--strategies {unknown[0]}: expected some of {', '.join(strategies)}")

    def job(strategy: str, seed: int) -> "Job":
        own = strategies[strategy]
        settings = (QUIET, *own, *start, *options.overrides, f"train.seed={seed}")
        return Job(strategy, own, settings, prepare(options.base, settings).resolved)

    jobs = [
        job(strategy, seed)
        for seed in numbers("--seeds", options.seeds, int)
        for strategy in dict.fromkeys((REFERENCE, *wanted))
    ]
    check_files(jobs[0].resolved)
    setup = _setup(options.base, (*start, *options.overrides), jobs[0].resolved)
    name = f"accuracy-{options.base.stem}"
    path = options.out / f"{name}.json"
    runs: list[AccuracyRun] = []
    if path.exists():
        earlier = MeasuredAccuracy.read(path)
        if earlier.setup != setup:
            raise BenchError(f"{path}: has runs of another set-up; write to another folder (--out)")
        runs = [
            run
            for run in earlier.runs
            if run.strategy in strategies and run.digest == job(run.strategy, run.seed).digest
        ]
    done = {run.digest for run in runs}
    left = [each for each in jobs if each.digest not in done]
    for number, each in enumerate(left):
        print(_progress(each, len(jobs) - len(left) + number, len(jobs), runs), flush=True)
        runs.append(each.train())
        measured = MeasuredAccuracy(setup, tuple(runs), command, _now())
        results.write_results(options.out, name, asdict(measured), markdown(measured))
    measured = MeasuredAccuracy(setup, tuple(runs), command, _now())
    print(markdown(measured))
    print("wrote", path)
    if options.ship:
        shipped = results.write_json(SHIPPED, asdict(measured))
        print(f"wrote {shipped}; `make configs` writes it into the pages")
    if options.within is not None:
        _check_kept(measured, wanted, options.within)


def _without_head(weights: Path, out: Path) -> str:
    """Write the weights without the last layer's into `out`; returns the override that starts from them."""
    try:
        with safe_open(weights, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            described = file.metadata()
    except (OSError, SafetensorError) as error:
        raise BenchError(f"--backbone {weights}: {error}") from error
    head = f"model.{max(int(name.split('.')[1]) for name in tensors)}."
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith(head)}
    out.mkdir(parents=True, exist_ok=True)
    path = out / "backbone.safetensors"
    save_file(body, path, described)
    return f"model.weights={path}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check_kept(measured: MeasuredAccuracy, strategies: Sequence[str], bound: float) -> None:
    """Raise BenchError if one of the strategies lost more AP than the bound."""
    changes = {name: measured.change(name) for name in strategies}
    lost = [f"{name} {-change:.3f}" for name, change in changes.items() if change < -bound]
    if lost:
        raise BenchError(f"more than {bound:g} AP lost against the reference: {', '.join(lost)}")


@dataclass(frozen=True)
class Job:
    """One strategy with one seed, to be trained."""

    strategy: str
    own: tuple[str, ...]
    settings: tuple[str, ...]
    """All overrides of the base recipe."""
    resolved: ResolvedRecipe

    @cached_property
    def digest(self) -> str:
        """Of all that the recipe states, and what decides the strategy's accuracy: equal for the same settings and seed."""
        recipe = self.resolved.recipe
        settings = strategy_of(recipe).learning_settings_of(recipe)
        values = json.dumps([self.resolved.loaded.values, settings], sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()

    def train(self) -> AccuracyRun:
        """Train it through the launcher. Raises BenchError if it has no AP."""
        run = RunDirectory(new_run(f"accuracy/{self.strategy}").path.resolve())
        run_with_restarts(self.resolved, self.settings, run)
        summary = json.loads(run.summary.read_text(encoding="utf-8"))
        if summary["ap"] is None:
            raise BenchError(
                f"{self.resolved.name}: its validation split has no boxes, hence no AP"
            )
        recipe = prepare(run.recipe, (), self.resolved.world_size).resolved.recipe  # as settled
        cost = strategy_of(recipe)
        names = ("steps", "ap", "ap50", "wire_bytes_per_step_per_rank", "wire_bytes_per_rank")
        return AccuracyRun(
            strategy=self.strategy,
            overrides=self.own,
            key=cost.key,
            settings=cost.learning_settings_of(recipe),
            digest=self.digest,
            seed=recipe.train.seed,
            precision=recipe.precision.dtype,
            wall_seconds=summary["wall_seconds"],
            **{name: summary[name] for name in names},
        )


def stated(path: Path) -> tuple[str, ...]:
    """What a recipe states itself, without the recipes it extends, as overrides."""
    loaded = load_recipe(path)
    return tuple(
        f"{'.'.join(key)}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in flatten(loaded.values)
        if loaded.origins[key].source is Source.FILE and key != ("description",)
    )


def _setup(base: Path, overrides: Sequence[str], resolved: ResolvedRecipe) -> AccuracySetup:
    recipe, data = resolved.recipe, data_of(resolved.recipe)
    has_bf16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
    cpu = torch.backends.cpu.get_cpu_capability() + (" with BF16" if has_bf16 else "")
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return AccuracySetup(
        base=str(base),
        overrides=tuple(each for each in overrides if not each.startswith(LOCAL)),
        images=data.images,
        classes=data.classes,
        variant=recipe.model.variant,
        image_size=recipe.model.image_size,
        epochs=recipe.train.epochs,
        ranks=resolved.world_size,
        global_batch=recipe.train.global_batch,
        optimizer=recipe.optimizer.type,
        processor=results.machine_facts(cpu, *gpu),
        torch_version=version("torch"),
        deepspeed_version=version("deepspeed"),
    )


def _progress(job: Job, done: int, total: int, runs: Sequence[AccuracyRun]) -> str:
    line = f"run {done + 1} of {total}: {job.strategy}, seed {job.resolved.recipe.train.seed}"
    if not runs:
        return line
    minutes = statistics.fmean(run.wall_seconds for run in runs) * (total - done) / 60
    return f"{line}, about {minutes:.0f} minutes left"


def markdown(measured: MeasuredAccuracy) -> str:
    """A table with one line per strategy, then the set-up."""
    reference = measured.strategies[REFERENCE]
    plain = statistics.fmean(run.wire_bytes_per_step_per_rank for run in reference)
    cells = []
    for name, runs in measured.strategies.items():
        per_step = statistics.fmean(run.wire_bytes_per_step_per_rank for run in runs)
        per_run = statistics.fmean(run.wire_bytes_per_rank for run in runs)
        cells.append(
            (
                name,
                ", ".join(f"{run.ap:.3f}" for run in runs),
                f"{statistics.fmean(run.ap for run in runs):.3f}",
                f"{measured.change(name):+.3f}",
                f"{per_step / 1e6:.3f}",
                f"1 / {plain / per_step:.1f}" if per_step else "0",
                f"{per_run / 1e6:,.0f}",
            )
        )
    return (
        "\n".join([*results.markdown_table(COLUMNS, cells), "", f"AP of {measured.described}."])
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
