"""`yolo calibrate`: measure a cluster through the launcher, and write a profile for the planner."""

from collections.abc import Sequence
from pathlib import Path

from yolo.calibration.launch_worker import run_worker
from yolo.errors import PlanError
from yolo.planner.cost.compute import ADAM_PASSES, BACKWARD
from yolo.planner.cost.model_stats import yolov5
from yolo.planner.dataset_size import data_of
from yolo.planner.profile import (
    Accelerator,
    ClusterProfile,
    Link,
    Measurement,
    read_profile,
    write_profile,
)
from yolo.recipe import ResolvedRecipe, prepare
from yolo.recipe.resolve.hardware import count_cores

SOURCE = "measured by yolo calibrate"


def calibrate(
    path: Path,
    overrides: Sequence[str],
    out: Path,
    bandwidth_gbps: float | None,
    classes: int | None = None,
) -> ClusterProfile:
    """Measure on the machines of the recipe; an existing profile gets one more measurement.

    Raises LaunchError if the ranks fail, PlanError if the file is no profile, or one of another backend.
    """
    before = read_profile(out) if out.exists() else None
    resolved = prepare(path, overrides).resolved
    backend = resolved.recipe.cluster.backend
    if before and before.backend != backend:
        raise PlanError(
            f"{out}: backend: its collectives are {before.backend}'s, and cluster.backend of {path} is {backend}; give --out "
            "another file"
        )
    data = data_of(resolved.recipe, classes=classes)
    arguments = ["--recipe", str(path), "--classes", str(data.classes), "--loads-data"]
    if bandwidth_gbps:
        arguments += ["--bandwidth-gbps", str(bandwidth_gbps)]
    result = run_worker(resolved, [*arguments, *overrides])
    measured = Measurement.model_validate_json(result)
    profile = add_measurement(before or new_profile(out.stem, resolved, measured), measured)
    write_profile(profile, out)
    return profile


def add_measurement(profile: ClusterProfile, measured: Measurement) -> ClusterProfile:
    """Add a measurement; it replaces an older one at the same ranks and bandwidth."""
    others = [
        each
        for each in profile.measured
        if (each.ranks, each.bandwidth_gbps) != (measured.ranks, measured.bandwidth_gbps)
    ]
    ordered = sorted([*others, measured], key=lambda each: (each.ranks, each.bandwidth_gbps))
    return profile.model_copy(update={"measured": ordered})


def new_profile(
    name: str, resolved: ResolvedRecipe, measured: Measurement, shared_cores: int | None = None
) -> ClusterProfile:
    """A profile with formulas fitted to one measurement; the planner prefers measured values to formulas."""
    recipe = resolved.recipe
    ranks_per_node = recipe.cluster.processes_per_node
    link = Link(
        name=f"{measured.bandwidth_gbps:.3g} Gbit/s",
        bandwidth_gbps=measured.bandwidth_gbps,
        latency_us=_latency_us(measured),
        source=SOURCE,
    )
    return ClusterProfile(
        name=name,
        nodes=max(1, resolved.world_size // ranks_per_node),
        gpus_per_node=ranks_per_node,
        accelerator=_accelerator(measured, ranks_per_node),
        within=link,
        between=link,
        backend=recipe.cluster.backend,
        jitter=measured.jitter,
        shared_cores=shared_cores,
        measured=[measured],
    )


def _latency_us(measured: Measurement) -> float:
    points = measured.collectives.get("all_reduce", [])
    steps = 2 * max(1, measured.ranks - 1)
    return points[0].seconds / steps * 1e6 if points else 50.0


def _accelerator(measured: Measurement, ranks_per_node: int) -> Accelerator:
    """This machine's GPU, or a rank's share of its processor."""
    import psutil
    import torch

    if has_gpu := torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = float(torch.cuda.get_device_properties(0).total_memory)
    else:
        name = f"{count_cores()} cores"
        memory = float(psutil.virtual_memory().total) / ranks_per_node
    work = measured.workload
    network = yolov5(work.variant, work.classes, work.image_size)
    operations = (1 + BACKWARD) * network.forward_flops * work.micro_batch / work.columns
    tflops = operations / (measured.forward_seconds + measured.backward_seconds) / 1e12
    return Accelerator(
        name=name,
        sustained_tflops=tflops if work.dtype != "fp32" else 2 * tflops,
        fp32_factor=2.0 if has_gpu else 1.0,
        memory_gb=memory / 1e9,
        memory_gbps=network.elements * 4 * ADAM_PASSES / measured.update_seconds / 1e9,
        source=SOURCE,
    )
