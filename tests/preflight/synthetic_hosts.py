"""Hosts that exist in memory only, alike until a test changes one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from yolo.preflight.collect import Inspection
from yolo.preflight.host_info import (
    Code,
    Content,
    Gpu,
    HostFacts,
    HostReport,
    Interface,
    LinkMeasurement,
)
from yolo.preflight.rule_context import RuleContext
from yolo.preflight.rules import HOST_RULES
from yolo.recipe.rules.engine import Finding

ANNOTATIONS, IMAGES, RECIPE = "data/instances_train.json", "data/images", "recipes/mine.yaml"
H100 = Gpu("NVIDIA H100 80GB HBM3", 81559)
LINK = LinkMeasurement("10.0.0.2", 9400.0, 9380.0, 1e-4, 0.001)


def code(**changes: Any) -> Code:
    return replace(Code("a" * 40, 0, "source"), **changes)


def content(**changes: Any) -> Content:
    sound = Content({RECIPE: "r", ANNOTATIONS: "a"}, {IMAGES: 1200}, {IMAGES: 10**6})
    return replace(sound, **changes)


def facts(**changes: Any) -> HostFacts:
    sound = HostFacts(
        code=code(),
        versions={"Python": "3.11.7", "torch": "2.13.0", "deepspeed": "0.19.8", "numpy": "2.4.6"},
        torch_is_for={"CUDA": "13.0", "NCCL": "2.28.9"},
        gpus=(H100,) * 2,
        free_bytes=10**12,
        address="10.0.0.1",
        interfaces=(Interface("eth0", "10.0.0.1", 1500), Interface("ib0", "10.0.0.2", 1500)),
        content=content(),
    )
    return replace(sound, **changes)


def hosts(*changed: HostFacts) -> list[HostReport]:
    """node0, node1, ..., the last of them as given, three at least."""
    described = [*[facts()] * (3 - len(changed)), *changed]
    return [
        HostReport(f"node{number}", 2, each, link=LINK if number else None)
        for number, each in enumerate(described)
    ]


def found(reports: Sequence[HostReport], **changes: Any) -> list[Finding]:
    inspection = Inspection(tuple(reports), "source", {RECIPE: "r"})
    context = RuleContext(
        *(inspection, 2, "cuda"),
        checkpoint_bytes=2_500_000_000,
        checkpoints=3,
        hostfile="hosts.txt",
        folder="/repository",
    )
    return [
        finding
        for finding in HOST_RULES.check(replace(context, **changes))
        if not finding.text.startswith("pdsh")  # of the machine that the tests run on
    ]
