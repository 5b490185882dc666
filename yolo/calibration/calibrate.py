"""`yolo calibrate`: measure a cluster, through the launcher, and write what the planner wants to know as a profile."""

from collections.abc import Sequence
from pathlib import Path

from yolo.calibration.launch_worker import ask_ranks
from yolo.planner.cost.compute import BACKWARD
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

MODULE = "yolo.calibration.worker"


def calibrate(
    path: Path,
    overrides: Sequence[str],
    out: Path,
    bandwidth_gbps: float | None,
    classes: int | None = None,
) -> ClusterProfile:
    """Measure on the machines of the recipe; a profile that is there already gets one more measurement.

    Raises LaunchError where the ranks fail, PlanError for a file that is no profile.
    """
    before = read_profile(out) if out.exists() else None
    resolved = prepare(path, overrides).resolved
    data = data_of(resolved.recipe, classes=classes)
    arguments = ["--recipe", str(path), "--classes", str(data.classes), "--loads-data"]
    if bandwidth_gbps:
        arguments += ["--bandwidth-gbps", str(bandwidth_gbps)]
    measured = ask_ranks(
        resolved,
        MODULE,
        [*arguments, *overrides],
        lambda answer: Measurement.model_validate_json(answer.read_text()),
    )
    profile = add_measurement(before or new_profile(out.stem, resolved, measured), measured)
    write_profile(profile, out)
    return profile


def add_measurement(profile: ClusterProfile, measured: Measurement) -> ClusterProfile:
    """A newer one takes the place of an older one at the same ranks and bandwidth."""
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
    """A profile whose formulae are as near as one measurement can tell; what was measured goes before them."""
    recipe = resolved.recipe
    each = recipe.cluster.processes_per_node
    work = measured.workload
    network = yolov5(work.variant, work.classes, work.image_size)
    operations = (1 + BACKWARD) * network.forward_flops * work.micro_batch
    seconds = measured.forward_seconds + measured.backward_seconds
    tflops = operations / seconds / 1e12
    measured_here = "measured by yolo calibrate"
    link = Link(
        name=f"{measured.bandwidth_gbps:.3g} Gbit/s",
        bandwidth_gbps=measured.bandwidth_gbps,
        latency_us=_latency_us(measured),
        source=measured_here,
    )
    return ClusterProfile(
        name=name,
        nodes=max(1, resolved.world_size // each),
        gpus_per_node=each,
        accelerator=Accelerator(
            name=_accelerator(),
            sustained_tflops=tflops if work.dtype != "fp32" else 2 * tflops,
            fp32_factor=2.0 if _has_gpu() else 1.0,
            memory_gb=_memory_gb(each),
            memory_gbps=network.elements * 4 * UPDATE_PASSES / measured.update_seconds / 1e9,
            source=measured_here,
        ),
        within=link,
        between=link,
        backend=recipe.cluster.backend,
        jitter=measured.jitter,
        shared_cores=shared_cores,
        measured=[measured],
    )


UPDATE_PASSES = 9
"""Over memory, of the optimizer's step: what its time says of the memory's bandwidth."""


def _latency_us(measured: Measurement) -> float:
    points = measured.collectives.get("all_reduce", [])
    steps = 2 * max(1, measured.ranks - 1)
    return points[0].seconds / steps * 1e6 if points else 50.0


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{count_cores()} cores"


def _memory_gb(ranks_here: int) -> float:
    import psutil
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory) / 1e9
    return float(psutil.virtual_memory().total) / 1e9 / ranks_here
