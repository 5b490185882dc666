"""A cluster as the planner sees it: its machines, its networks, and what was measured on it.

A profile comes from the catalogue (`4x8xa100-100gbe`), from a YAML file that somebody wrote, or from `yolo calibrate`.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from yolo.errors import PlanError, RecipeError
from yolo.recipe.load.yaml_source import read_document
from yolo.recipe.schema.fields import Count, OneLine, Section, Share, setting, whole
from yolo.recipe.schema.model import Variant

SMALLEST, LARGEST = 1e-15, 1e15
"""Of a figure: what is beyond is no measurement, and products of some would overflow."""
Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, le=LARGEST, allow_inf_nan=False)]
PositiveShare = Annotated[float, Field(ge=1e-6, le=1.0, allow_inf_nan=False)]
Change = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Nodes = Annotated[int, Field(ge=1, le=100_000), BeforeValidator(whole)]
GpusPerNode = Annotated[int, Field(ge=1, le=1024), BeforeValidator(whole)]


class Link(Section):
    """A network between ranks, as its formula has it: a message takes latency + bytes / bandwidth."""

    name: OneLine = setting()
    """What people call it."""
    bandwidth_gbps: Positive = setting(unit="10^9 bits a second")
    """Of one node's (or one GPU's) link in one direction, as sold."""
    efficiency: PositiveShare = setting(1.0)
    """Share of it that collectives reach."""
    latency_us: NotNegative = setting(unit="microseconds")
    """Of each of a collective's steps."""
    source: OneLine = setting()
    """Where the figures are from."""

    @property
    def bytes_per_second(self) -> float:
        """Payload that a node sends at most."""
        return self.bandwidth_gbps * 1e9 / 8 * self.efficiency


class Accelerator(Section):
    """What computes: a GPU, or a processor's cores."""

    name: OneLine = setting()
    """What people call it."""
    sustained_tflops: Positive = setting(unit="10^12 operations a second")
    """That training a YOLOv5 reaches in 16 bits: a tenth of a GPU's peak, because most of its time moves memory."""
    fp32_factor: Positive = setting(2.0)
    """How many times as long a step takes in fp32."""
    memory_gb: Positive = setting(unit="10^9 bytes")
    """That it has."""
    memory_gbps: Positive = setting(unit="10^9 bytes a second")
    """At which it reads and writes memory: what packing gradients costs."""
    hook_us: NotNegative = setting(12.0, unit="microseconds")
    """Of a Python hook on one tensor's gradient."""
    launch_us: NotNegative = setting(10.0, unit="microseconds")
    """Between two kernels that are too small to keep it busy."""
    overlap_slowdown: Share = setting(0.0)
    """How much longer computing takes while a collective is under way."""
    source: OneLine = setting()
    """Where the figures are from."""


class Point(Section):
    """A collective of one size, timed."""

    payload_bytes: Count = setting(unit="bytes")
    """Handed over by a rank."""
    seconds: Positive = setting(unit="seconds")
    """Mean, as steps meet it."""
    core_share: NotNegative = setting(0.0)
    """Of a core, that a rank's process and its share of the network's work kept busy meanwhile."""


class Workload(Section):
    """What a rank computed while it was measured."""

    variant: Variant = setting()
    """Size of the network."""
    classes: Count = setting()
    """Kinds of objects."""
    image_size: Count = setting(unit="pixels")
    """Side of the images."""
    micro_batch: Count = setting(unit="images")
    """A rank and micro step."""
    dtype: Literal["fp32", "bf16", "fp16"] = setting()
    """Of the computation."""


class Measurement(Section):
    """One calibration: the same cluster at one number of ranks and one bandwidth."""

    ranks: Count = setting()
    """All busy at once."""
    bandwidth_gbps: Positive = setting(unit="10^9 bits a second")
    """Of a node's link."""
    wire_bytes_per_payload_byte: Positive = setting(1.0)
    """Headers and acknowledgements included, by the interface's counters over real steps."""
    wire_bytes_per_collective: dict[str, NotNegative] = setting({}, unit="bytes")
    """Beside that, however small the payload is, by kind."""
    workload: Workload = setting()
    """What was computed."""
    forward_seconds: Positive = setting(unit="seconds")
    """Of a micro step, nothing exchanged, all ranks busy."""
    backward_seconds: Positive = setting(unit="seconds")
    """Of the same micro step."""
    update_seconds: NotNegative = setting(unit="seconds")
    """Clipping and the optimizer's step."""
    jitter: NotNegative = setting()
    """Standard deviation of a rank's step as a share of it, all ranks busy: a step waits for the slowest."""
    ready: list[tuple[Share, Share]] = setting()
    """How backward goes: (share of its time, share of the gradients that are complete)."""
    local_seconds: dict[str, Change] = setting()
    """What a strategy adds to a rank's step when its collectives send nothing: hooks, copies, packing; seconds by strategy."""
    collectives: dict[str, list[Point]] = setting()
    """By kind, sizes rising."""
    seconds_behind: dict[str, Positive] = setting({}, unit="seconds")
    """Of a small collective that begins behind others under way, by kind: threads and steps of theirs overlap."""
    loader_images_per_second: Positive | None = setting(None, unit="images a second")
    """What a rank's data loader delivers, all ranks loading at once."""

    @model_validator(mode="after")
    def _can_be_interpolated(self) -> Self:
        shares = [share for _, share in self.ready]
        if not shares or shares != sorted(shares):
            raise ValueError("`ready` needs shares of the gradients that never fall")
        for kind, points in self.collectives.items():
            sizes = [point.payload_bytes for point in points]
            if not sizes or any(one >= other for one, other in pairwise(sizes)):
                raise ValueError(f"collectives.{kind} needs sizes that rise")
        if self.collectives and self.ranks == 1:
            raise ValueError("one rank has no collectives")
        return self


class ClusterProfile(Section):
    """Machines and networks, and what was measured on them."""

    name: OneLine = setting()
    """For tables."""
    nodes: Nodes = setting(unit="machines")
    """How many."""
    gpus_per_node: GpusPerNode = setting(unit="ranks")
    """Ranks on each."""
    accelerator: Accelerator = setting()
    """What each rank computes on."""
    within: Link = setting()
    """Between ranks of one node."""
    between: Link = setting()
    """Between nodes."""
    backend: Literal["nccl", "gloo", "mpi"] = setting("nccl")
    """Protocol of the collectives."""
    jitter: NotNegative = setting(0.0)
    """Standard deviation of a rank's step as a share of it: a step waits for the slowest rank."""
    shared_cores: Count | None = setting(None, unit="cores")
    """Where all nodes are emulated on one machine: what they share."""
    wire_bytes_per_payload_byte: Positive = setting(1.0)
    """Headers of the network, where nothing was measured."""
    measured: list[Measurement] = setting([])
    """By `yolo calibrate`."""

    @property
    def ranks(self) -> int:
        """World size."""
        return self.nodes * self.gpus_per_node

    def with_nodes(self, nodes: int, gpus_per_node: int | None = None) -> "ClusterProfile":
        """The same with another number of nodes."""
        changed = {"nodes": nodes, "gpus_per_node": gpus_per_node or self.gpus_per_node}
        return self.model_copy(update=changed)

    def with_bandwidth(self, gbps: float) -> "ClusterProfile":
        """The same with another network between its nodes."""
        between = self.between.model_copy(update={"bandwidth_gbps": gbps})
        return self.model_copy(update={"between": between})


def read_profile(path: Path) -> ClusterProfile:
    """A profile's file.

    Raises PlanError with one line for each thing that is wrong.
    """
    try:
        document = read_document(path)
    except RecipeError as error:
        raise PlanError(str(error)) from error
    return _validated(document.values, path)


def _validated(values: Mapping[str, Any], path: Path) -> ClusterProfile:
    import json

    try:
        return ClusterProfile.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
        ]
        raise PlanError("\n".join(lines)) from error


def write_profile(profile: ClusterProfile, path: Path) -> None:
    """Write a profile as YAML, whole or not at all."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    temporary = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as file:
        yaml.dump(profile.model_dump(mode="json"), file)
    temporary.replace(path)
