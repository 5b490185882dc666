"""A cluster as the planner sees it: its machines, its networks, and what was measured on it.

A profile comes from the catalogue (`4x8xa100-100gbe`), from a YAML file written by hand, or from `yolo calibrate`.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from yolo.errors import PlanError, RecipeError
from yolo.recipe.load.yaml_source import read_document
from yolo.recipe.schema.distributed import Backend
from yolo.recipe.schema.fields import Count, OneLine, Section, Share, setting, whole
from yolo.recipe.schema.model import Variant

SMALLEST, LARGEST = 1e-15, 1e15
"""Bounds of a figure: beyond them is no measurement, and products of several would overflow."""
Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, le=LARGEST, allow_inf_nan=False)]
PositiveShare = Annotated[float, Field(ge=1e-6, le=1.0, allow_inf_nan=False)]
Change = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Nodes = Annotated[int, Field(ge=1, le=100_000), BeforeValidator(whole)]
GpusPerNode = Annotated[int, Field(ge=1, le=1024), BeforeValidator(whole)]


class Link(Section):
    """A network between ranks: a message takes latency + bytes / bandwidth."""

    name: OneLine = setting()
    """Its usual name."""
    bandwidth_gbps: Positive = setting(unit="10^9 bits per second")
    """Nominal rate of one node's (or one GPU's) link in one direction."""
    efficiency: PositiveShare = setting(1.0)
    """Share of it that collectives reach."""
    latency_us: NotNegative = setting(unit="microseconds")
    """Latency per step of a collective."""
    source: OneLine = setting()
    """Where the figures are from."""

    @property
    def bytes_per_second(self) -> float:
        """Payload that a node sends at most."""
        return self.bandwidth_gbps * 1e9 / 8 * self.efficiency


class Accelerator(Section):
    """What computes: a GPU, or a processor's cores."""

    name: OneLine = setting()
    """Its usual name."""
    sustained_tflops: Positive = setting(unit="10^12 operations per second")
    """What training a YOLOv5 reaches in 16 bits: a tenth of a GPU's peak, because memory takes most of the time."""
    fp32_factor: Positive = setting(2.0)
    """How many times as long a step takes in fp32."""
    memory_gb: Positive = setting(unit="10^9 bytes")
    """Size of its memory."""
    memory_gbps: Positive = setting(unit="10^9 bytes per second")
    """Bandwidth of its memory, which limits packing of gradients."""
    hook_us: NotNegative = setting(12.0, unit="microseconds")
    """Time of a Python hook on one tensor's gradient."""
    launch_us: NotNegative = setting(10.0, unit="microseconds")
    """Time between two kernels that are too small to keep it busy."""
    overlap_slowdown: Share = setting(0.0)
    """How much longer computing takes while a collective is under way."""
    source: OneLine = setting()
    """Where the figures are from."""


class Point(Section):
    """One timed collective."""

    payload_bytes: Count = setting(unit="bytes")
    """Payload per rank."""
    seconds: Positive = setting(unit="seconds")
    """Mean, under the conditions of training steps."""
    core_share: NotNegative = setting(0.0)
    """Share of a core that a rank's process and its share of the network's work kept busy meanwhile."""


class Workload(Section):
    """What a rank computed while it was measured."""

    variant: Variant = setting()
    """Size of the network."""
    classes: Count = setting()
    """Object classes."""
    image_size: Count = setting(unit="pixels")
    """Side of the images."""
    micro_batch: Count = setting(unit="images")
    """Per rank per micro step."""
    dtype: Literal["fp32", "bf16", "fp16"] = setting()
    """Type of the computation."""


class Measurement(Section):
    """One calibration: the cluster at one number of ranks and one bandwidth."""

    ranks: Count = setting()
    """All busy at once."""
    bandwidth_gbps: Positive = setting(unit="10^9 bits per second")
    """Rate of a node's link."""
    wire_bytes_per_payload_byte: Positive = setting(1.0)
    """With headers and acknowledgements, by the interface's counters over real steps."""
    wire_bytes_per_collective: dict[str, NotNegative] = setting({}, unit="bytes")
    """In addition, for a payload of any size, by kind."""
    workload: Workload = setting()
    """What was computed."""
    forward_seconds: Positive = setting(unit="seconds")
    """Per micro step without communication, all ranks busy."""
    backward_seconds: Positive = setting(unit="seconds")
    """For the same micro step."""
    update_seconds: NotNegative = setting(unit="seconds")
    """Clipping and the optimizer's step."""
    jitter: NotNegative = setting()
    """Standard deviation of a rank's step as a share of it, all ranks busy: a step waits for the slowest."""
    ready: list[tuple[Share, Share]] = setting()
    """Progress of backward: (share of its time, share of the gradients that are complete)."""
    local_seconds: dict[str, Change] = setting()
    """Seconds that a strategy adds to a rank's step when its collectives send nothing: hooks, copies, packing; by strategy."""
    collectives: dict[str, list[Point]] = setting()
    """By kind, in order of size."""
    seconds_behind: dict[str, Positive] = setting({}, unit="seconds")
    """Time of a small collective that begins behind others, by kind: their threads and steps overlap."""
    loader_images_per_second: Positive | None = setting(None, unit="images per second")
    """Images that a rank's data loader delivers while all ranks load."""

    @model_validator(mode="after")
    def _can_be_interpolated(self) -> Self:
        shares = [share for _, share in self.ready]
        if not shares or shares != sorted(shares):
            raise ValueError("`ready` needs one or more shares of the gradients that never fall")
        for kind, points in self.collectives.items():
            sizes = [point.payload_bytes for point in points]
            if not sizes or any(one >= other for one, other in pairwise(sizes)):
                raise ValueError(f"collectives.{kind} needs one or more sizes that rise")
        if self.collectives and self.ranks == 1:
            raise ValueError("`collectives` must be empty for one rank")
        return self


class ClusterProfile(Section):
    """Machines and networks, and what was measured on them."""

    name: OneLine = setting()
    """Shown in tables."""
    nodes: Nodes = setting(unit="machines")
    """Number of machines."""
    gpus_per_node: GpusPerNode = setting(unit="ranks")
    """Ranks per node."""
    accelerator: Accelerator = setting()
    """What each rank computes on."""
    within: Link = setting()
    """Between ranks of one node."""
    between: Link = setting()
    """Between nodes."""
    backend: Backend = setting("nccl")
    """Library of the collectives."""
    jitter: NotNegative = setting(0.0)
    """Standard deviation of a rank's step as a share of it: a step waits for the slowest rank."""
    shared_cores: Count | None = setting(None, unit="cores")
    """Cores that all nodes share, if they are emulated on one machine."""
    wire_bytes_per_payload_byte: Positive = setting(1.0)
    """With the network's headers, if nothing was measured."""
    measured: list[Measurement] = setting([])
    """By `yolo calibrate`."""

    @property
    def ranks(self) -> int:
        """World size."""
        return self.nodes * self.gpus_per_node

    @property
    def network(self) -> Link:
        """The link that connects all ranks: between nodes, or within the only node."""
        return self.between if self.nodes > 1 else self.within

    @property
    def node(self) -> "ClusterProfile":
        """One of several nodes by itself, whose link nobody has measured."""
        if self.nodes == 1:
            return self
        alone = {"nodes": 1, "measured": [], "wire_bytes_per_payload_byte": 1.0}
        return self.model_copy(update=alone)

    def with_nodes(self, nodes: int, gpus_per_node: int | None = None) -> "ClusterProfile":
        """Change the number of nodes."""
        changed = {"nodes": nodes, "gpus_per_node": gpus_per_node or self.gpus_per_node}
        return self.model_copy(update=changed)

    def with_bandwidth(self, gbps: float) -> "ClusterProfile":
        """Change the bandwidth between nodes."""
        between = self.between.model_copy(update={"bandwidth_gbps": gbps})
        return self.model_copy(update={"between": between})


def read_profile(path: Path) -> ClusterProfile:
    """Read a profile's file. Raises PlanError with one line per mistake."""
    try:
        return ClusterProfile.model_validate_json(json.dumps(read_document(path).values))
    except RecipeError as error:
        raise PlanError(str(error)) from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
        ]
        raise PlanError("\n".join(lines)) from error


def write_profile(profile: ClusterProfile, path: Path) -> None:
    """Write a profile as YAML; the path never holds part of it."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    temporary = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as file:
        yaml.dump(profile.model_dump(mode="json"), file)
    temporary.replace(path)
