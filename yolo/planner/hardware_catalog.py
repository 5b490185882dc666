"""Networks and GPUs by name, each figure with its source: what a plan rests on where nothing was measured.

`4x8xa100-100gbe` is 4 nodes of 8 A100 each, joined by 100 Gbit/s Ethernet.
"""

import re
from pathlib import Path

from yolo.errors import PlanError
from yolo.planner.profile import Accelerator, ClusterProfile, Link, read_profile
from yolo.recipe.load.did_you_mean import nearest

TCP_EFFICIENCY = 0.94
"""Payload of full Ethernet frames with TCP's headers and acknowledgements; measured with gloo over shaped links."""
NCCL_NET_US = 14.0
NCCL_NVLINK_US = 3.4
NCCL_PCIE_US = 5.7
"""NCCL's own model of a ring's step in its simple protocol (src/graph/tuning.cc, hwLatencies)."""
NCCL_TCP_US = 50.0
"""A step over sockets instead of verbs: 38 to 46 us for 8 bytes between 2 nodes (nccl-tests issue 82)."""
JITTER = 0.15
"""Of the public YOLOv5's steps: from its 4 against 1 A100 (193.2 / 167.6 ms with DDP, Ultralytics' multi-GPU page), where
NVLink leaves next to nothing to wait for; its 2 and 8 check it."""


def _link(name: str, gbps: float, efficiency: float, latency_us: float, source: str) -> Link:
    return Link(
        name=name,
        bandwidth_gbps=gbps,
        efficiency=efficiency,
        latency_us=latency_us,
        source=source,
    )


_FRAMES = "TCP over full Ethernet frames: 94% of the rate (measured with gloo on shaped links)"
NETWORKS = {
    "1gbe": _link("1 GbE", 1.0, TCP_EFFICIENCY, NCCL_TCP_US, _FRAMES),
    "10gbe": _link("10 GbE", 10.0, TCP_EFFICIENCY, NCCL_TCP_US, _FRAMES),
    "25gbe": _link(
        "25 GbE", 25.0, 0.6, NCCL_TCP_US, "NCCL over TCP reaches 60% at 32 Gbit/s (NCCL issue 209)"
    ),
    "100gbe": _link(
        "100 GbE", 100.0, 0.4, NCCL_TCP_US, "NCCL over TCP: 4 to 6 GB/s (NCCL issue 450)"
    ),
    "100gbe-rdma": _link(
        "100 GbE with RDMA", 100.0, 0.85, NCCL_NET_US, "as InfiniBand: same verbs, same card"
    ),
    "hdr": _link(
        "InfiniBand HDR", 200.0, 0.85, NCCL_NET_US, "84.8 of 100 GB/s on 4 cards (nccl-tests 119)"
    ),
    "4xhdr": _link(
        "4 InfiniBand HDR", 800.0, 0.85, NCCL_NET_US, "84.8 of 100 GB/s (nccl-tests issue 119)"
    ),
    "ndr": _link("InfiniBand NDR", 400.0, 0.85, NCCL_NET_US, "as HDR, at twice its rate"),
    "8xndr": _link("8 InfiniBand NDR", 3200.0, 0.85, NCCL_NET_US, "as HDR, one card for each GPU"),
}
"""Between nodes; the rate is a node's, which its GPUs share."""

_NVLINK = {
    "nvlink2": _link(
        "NVLink 2",
        1200.0,
        0.87,
        NCCL_NVLINK_US,
        "6 links of 25 GB/s (V100 data sheet); 87% as on A100",
    ),
    "nvlink3": _link(
        "NVLink 3",
        2400.0,
        0.69,
        NCCL_NVLINK_US,
        "all-reduce at 208 GB/s of 300 (nccl-tests 149, 178)",
    ),
    "nvlink4": _link(
        "NVLink 4", 3600.0, 0.80, NCCL_NVLINK_US, "360 GB/s of 450 (NCCL's own limit for Hopper)"
    ),
    "pcie4": _link(
        "PCIe 4", 256.0, 0.63, NCCL_PCIE_US, "20 GB/s of 32 across sockets (nccl-tests issue 178)"
    ),
    "pcie3": _link("PCIe 3", 128.0, 0.63, NCCL_PCIE_US, "as PCIe 4, at half its rate"),
}


def _gpu(
    name: str, tflops: float, memory_gb: float, memory_gbps: float, source: str
) -> Accelerator:
    return Accelerator(
        name=name,
        sustained_tflops=tflops,
        memory_gb=memory_gb,
        memory_gbps=memory_gbps,
        overlap_slowdown=OVERLAP_SLOWDOWN,
        source=source,
    )


OVERLAP_SLOWDOWN = 0.19
"""Computing while NCCL's kernels run beside it takes 18.9% longer on average (Lee et al., arXiv 2507.03114)."""
A100_TFLOPS = 32.7
_BY_MEMORY = "A100's rate times the ratio of memory bandwidths (NVIDIA data sheets)"
GPUS = {
    "v100": (
        _gpu("V100", 22.4, 16.0, 900.0, "YOLOv5l: 300 epochs of COCO in 6 days (its README)"),
        "nvlink2",
    ),
    "a100": (
        _gpu(
            "A100",
            A100_TFLOPS,
            40.0,
            1555.0,
            "YOLOv5l-seg, 147.7 GFLOPs: 300 epochs of COCO in 66:43 h on 2 (its README), DDP and evaluation included",
        ),
        "nvlink3",
    ),
    "a100-80gb": (
        _gpu("A100 80 GB", A100_TFLOPS * 2039 / 1555, 80.0, 2039.0, _BY_MEMORY),
        "nvlink3",
    ),
    "h100": (_gpu("H100", A100_TFLOPS * 3350 / 1555, 80.0, 3350.0, _BY_MEMORY), "nvlink4"),
    "h200": (_gpu("H200", A100_TFLOPS * 4800 / 1555, 141.0, 4800.0, _BY_MEMORY), "nvlink4"),
    "l4": (_gpu("L4", A100_TFLOPS * 300 / 1555, 24.0, 300.0, _BY_MEMORY), "pcie4"),
    "t4": (_gpu("T4", A100_TFLOPS * 320 / 1555, 16.0, 320.0, _BY_MEMORY), "pcie3"),
    "rtx3090": (_gpu("RTX 3090", A100_TFLOPS * 936 / 1555, 24.0, 936.0, _BY_MEMORY), "pcie4"),
    "rtx4090": (_gpu("RTX 4090", A100_TFLOPS * 1008 / 1555, 24.0, 1008.0, _BY_MEMORY), "pcie4"),
}
"""With the link between GPUs of one node."""

_NAME = re.compile(r"(?:(\d+)x)?(\d+)x([a-z0-9]+(?:-80gb)?)(?:-(.+))?")
MOST_NODES = 1024


def cluster(text: str) -> ClusterProfile:
    """A cluster by its name (`4x8xa100-100gbe`, `8xa100`), or from a profile's file.

    Raises PlanError with what is allowed.
    """
    if "/" in text or text.endswith((".yaml", ".yml", ".json")):
        return read_profile(Path(text))
    match = _NAME.fullmatch(text.lower())
    if match is None:
        raise PlanError(
            f"{text}: no cluster; expected NODESxGPUSxGPU-NETWORK such as 4x8xa100-100gbe, or a profile's file (*.yaml)"
        )
    nodes, gpus, gpu, network = match.groups()
    if gpu not in GPUS:
        raise PlanError(
            f"{text}: no GPU {gpu!r} in the catalogue.{nearest(gpu, GPUS)} Known: {', '.join(GPUS)}; of another one write a "
            "profile, or let `python -m yolo calibrate` measure it"
        )
    count = int(nodes or 1)
    if count > 1 and network is None:
        raise PlanError(f"{text}: {count} nodes joined by what? One of {', '.join(NETWORKS)}")
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
        within=_NVLINK[within],
        between=NETWORKS[network or "10gbe"],
        jitter=JITTER,
    )
