"""Networks and GPUs by name, each figure with its source: the basis of a plan if nothing was measured.

`4x8xa100-100gbe` is 4 nodes of 8 A100 each, joined by 100 Gbit/s Ethernet.
"""

import re
from pathlib import Path

from yolo.errors import PlanError
from yolo.planner.profile import Accelerator, ClusterProfile, Link, read_profile
from yolo.recipe import LoadedRecipe, ResolvedRecipe
from yolo.recipe.did_you_mean import nearest

TCP_EFFICIENCY = 0.94
"""Payload share of full Ethernet frames with TCP's headers and acknowledgements; measured with gloo over shaped links."""
NET_US = 14.0
NVLINK_US = 3.4
PCIE_US = 5.7
"""NCCL's own model of a ring's step in its simple protocol (src/graph/tuning.cc, hwLatencies)."""
TCP_US = 50.0
"""A step over sockets instead of verbs: 38 to 46 us for 8 bytes between 2 nodes (nccl-tests issue 82)."""
JITTER = 0.15
"""Jitter of the public YOLOv5's steps: from its 4 against 1 A100 (193.2 / 167.6 ms with DDP, Ultralytics' multi-GPU page),
where NVLink leaves next to nothing to wait for; checked with its 2 and 8."""
OVERLAP_SLOWDOWN = 0.19
"""Computing takes 18.9% longer on average while NCCL's kernels run (Lee et al., arXiv 2507.03114)."""
A100_TFLOPS, A100_GBPS = 32.7, 1555.0
MOST_NODES = 1024


def _link(name: str, gbps: float, efficiency: float, latency_us: float, source: str) -> Link:
    return Link(
        name=name, bandwidth_gbps=gbps, efficiency=efficiency, latency_us=latency_us, source=source
    )


_FRAMES = "TCP over full Ethernet frames: 94% of the rate (measured with gloo on shaped links)"
_HDR = "84.8 of 100 GB/s on 4 cards (nccl-tests issue 119)"
NETWORKS = {
    "1gbe": _link("1 GbE", 1.0, TCP_EFFICIENCY, TCP_US, _FRAMES),
    "10gbe": _link("10 GbE", 10.0, TCP_EFFICIENCY, TCP_US, _FRAMES),
    "25gbe": _link("25 GbE", 25.0, 0.6, TCP_US, "NCCL over TCP: 60% at 32 Gbit/s (NCCL issue 209)"),
    "100gbe": _link("100 GbE", 100.0, 0.4, TCP_US, "NCCL over TCP: 4 to 6 GB/s (NCCL issue 450)"),
    "100gbe-rdma": _link(
        "100 GbE with RDMA", 100.0, 0.85, NET_US, "as InfiniBand: same verbs, same card"
    ),
    "hdr": _link("InfiniBand HDR", 200.0, 0.85, NET_US, _HDR),
    "4xhdr": _link("4 InfiniBand HDR", 800.0, 0.85, NET_US, _HDR),
    "ndr": _link("InfiniBand NDR", 400.0, 0.85, NET_US, "as HDR, at twice its rate"),
    "8xndr": _link("8 InfiniBand NDR", 3200.0, 0.85, NET_US, "as HDR, one card per GPU"),
}
"""Between nodes; the rate is a node's, which its GPUs share."""

_V100_LINKS = "6 links of 25 GB/s (V100 data sheet); 87% as on A100"
_A100_LINKS = "all-reduce at 208 GB/s of 300 (nccl-tests 149, 178)"
_H100_LINKS = "360 GB/s of 450 (NCCL's own limit for Hopper)"
_PCIE = "20 GB/s of 32 across sockets (nccl-tests issue 178)"
_WITHIN = {
    "nvlink2": _link("NVLink 2", 1200.0, 0.87, NVLINK_US, _V100_LINKS),
    "nvlink3": _link("NVLink 3", 2400.0, 0.69, NVLINK_US, _A100_LINKS),
    "nvlink4": _link("NVLink 4", 3600.0, 0.80, NVLINK_US, _H100_LINKS),
    "pcie4": _link("PCIe 4", 256.0, 0.63, PCIE_US, _PCIE),
    "pcie3": _link("PCIe 3", 128.0, 0.63, PCIE_US, "as PCIe 4, at half its rate"),
}


def _gpu(
    name: str,
    memory_gb: float,
    memory_gbps: float,
    tflops: float | None = None,
    source: str = "A100's rate times the ratio of memory bandwidths (NVIDIA data sheets)",
) -> Accelerator:
    return Accelerator(
        name=name,
        sustained_tflops=tflops or A100_TFLOPS * memory_gbps / A100_GBPS,
        memory_gb=memory_gb,
        memory_gbps=memory_gbps,
        overlap_slowdown=OVERLAP_SLOWDOWN,
        source=source,
    )


_V100_RUN = "YOLOv5l: 300 epochs of COCO in 6 days (its README)"
_A100_RUN = "YOLOv5l-seg, 147.7 GFLOPs: 300 epochs of COCO in 66:43 h on 2 (its README), DDP and evaluation included"
GPUS = {
    "v100": (_gpu("V100", 16.0, 900.0, 22.4, _V100_RUN), "nvlink2"),
    "a100": (_gpu("A100", 40.0, A100_GBPS, A100_TFLOPS, _A100_RUN), "nvlink3"),
    "a100-80gb": (_gpu("A100 80 GB", 80.0, 2039.0), "nvlink3"),
    "h100": (_gpu("H100", 80.0, 3350.0), "nvlink4"),
    "h200": (_gpu("H200", 141.0, 4800.0), "nvlink4"),
    "l4": (_gpu("L4", 24.0, 300.0), "pcie4"),
    "t4": (_gpu("T4", 16.0, 320.0), "pcie3"),
    "rtx3090": (_gpu("RTX 3090", 24.0, 936.0), "pcie4"),
    "rtx4090": (_gpu("RTX 4090", 24.0, 1008.0), "pcie4"),
}
"""With the link between GPUs of one node."""

_NAME = re.compile(r"(?:(\d+)x)?(\d+)x([a-z0-9]+(?:-80gb)?)(?:-(.+))?")


def cluster(text: str) -> ClusterProfile:
    """A cluster by its name (`4x8xa100-100gbe`, `8xa100`), or from a profile's file.

    Raises PlanError with what is allowed.
    """
    if "/" in text or text.endswith((".yaml", ".yml", ".json")):
        return read_profile(Path(text))
    match = _NAME.fullmatch(text.lower())
    if match is None:
        raise PlanError(
            f"{text}: not a cluster; expected NODESxGPUSxGPU-NETWORK such as 4x8xa100-100gbe, or a profile's file (*.yaml)"
        )
    nodes, gpus, gpu, network = match.groups()
    if gpu not in GPUS:
        raise PlanError(
            f"{text}: no GPU {gpu!r} in the catalogue.{nearest(gpu, GPUS)} Known: {', '.join(GPUS)}; for another GPU write a "
            "profile, or measure one with `yolo calibrate`"
        )
    count = int(nodes or 1)
    if count > 1 and network is None:
        raise PlanError(f"{text}: {count} nodes joined by what? Add one of {', '.join(NETWORKS)}")
    if network is not None and network not in NETWORKS:
        raise PlanError(
            f"{text}: no network {network!r} in the catalogue.{nearest(network, NETWORKS)} Known: {', '.join(NETWORKS)}"
        )
    if not 1 <= count <= MOST_NODES or not 1 <= int(gpus) <= 16:
        raise PlanError(f"{text}: expected 1 to {MOST_NODES} nodes of 1 to 16 GPUs")
    accelerator, within = GPUS[gpu]
    return ClusterProfile(
        name=text,
        nodes=count,
        gpus_per_node=int(gpus),
        accelerator=accelerator,
        within=_WITHIN[within],
        between=NETWORKS[network or "10gbe"],
        jitter=JITTER,
    )


def profile_of(resolved: ResolvedRecipe) -> ClusterProfile:
    """The profile that a recipe names, with the nodes and ranks of the run."""
    section = resolved.recipe.cluster
    assert section.profile is not None
    each = section.processes_per_node
    return cluster(section.profile).with_nodes(max(1, resolved.world_size // each), each)


def requested_profile(
    loaded: LoadedRecipe,
    name: str | None,
    nodes: int | None,
    gpus_per_node: int | None,
    bandwidth_gbps: float | None,
) -> ClusterProfile:
    """A cluster by its name or file (None: the recipe's cluster.profile), with other numbers. Raises PlanError without a name."""
    name = name or loaded.recipe.cluster.profile
    if name is None:
        raise PlanError(
            "for which cluster? Give --cluster NODESxGPUSxGPU-NETWORK such as 4x8xa100-100gbe, or --measured FILE from "
            "`yolo calibrate`, or set cluster.profile in the recipe"
        )
    profile = cluster(name)
    if nodes or gpus_per_node:
        profile = profile.with_nodes(nodes or profile.nodes, gpus_per_node)
    return profile.with_bandwidth(bandwidth_gbps) if bandwidth_gbps else profile
