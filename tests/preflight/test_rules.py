from dataclasses import replace
from typing import Any

import pytest

from tests.preflight.synthetic_hosts import (
    ANNOTATIONS,
    IMAGES,
    LINK,
    RECIPE,
    code,
    content,
    facts,
    found,
    hosts,
)
from yolo.preflight.collect import Inspection
from yolo.preflight.host_info import Gpu, HostFacts, HostReport, Interface, LinkMeasurement
from yolo.preflight.rule_context import join_names, rule_context
from yolo.recipe import prepare
from yolo.recipe.rules.engine import Severity

OLDER = {"Python": "3.11.7", "torch": "2.12.0", "deepspeed": "0.19.8", "numpy": "2.4.6"}


def the_only_one(reports: list[HostReport], severity: Severity, **changes: Any) -> str:
    findings = found(reports, **changes)
    assert [finding.severity for finding in findings] == [severity], findings
    return findings[0].text


def test_hosts_that_are_alike_are_no_news() -> None:
    assert found(hosts()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            facts(code=code(commit="b" * 40, source="other")),
            "commit: aaaaaaaaaaaa on node0, node1; bbbbbbbbbbbb on node2; `git fetch && git checkout aaaaaaaaaaaa` in "
            "/repository on node2",
        ),
        (facts(code=code(source="other")), "one version on node0, node1, this machine; another on"),
        (facts(versions=OLDER), "torch: 2.13.0 on node0, node1; 2.12.0 on node2; `rm .venv/ready"),
        (facts(versions=OLDER | {"torch": None}), "torch: not installed on node2; `make setup`"),
        (
            facts(torch_is_for={"CUDA": "13.0", "NCCL": "2.27.3"}),
            "NCCL that torch was built for: 2.28.9 on node0, node1; 2.27.3 on node2",
        ),
        (
            facts(content=content(digests={RECIPE: "r", ANNOTATIONS: "b"})),
            f"{ANNOTATIONS}: its content differs: one content on node0, node1; another on node2; copy it",
        ),
        (
            facts(content=content(digests={RECIPE: "r", ANNOTATIONS: None})),
            f"{ANNOTATIONS}: cannot be read on node2; copy it",
        ),
        (
            facts(content=content(digests={RECIPE: "other", ANNOTATIONS: "a"})),
            f"{RECIPE}: its content differs: one content on node0, node1, this machine; another on",
        ),
        (
            facts(content=content(files={IMAGES: 1199})),
            "1,200 files, 1,000,000 bytes on node0, node1; 1,199 files, 1,000,000 bytes on node2",
        ),
        (facts(content=content(files={IMAGES: -1})), f"{IMAGES}: not on node2; copy it there"),
        (facts(content=content(problem="x.yaml: no `val:`")), "node2: x.yaml: no `val:`"),
        (facts(gpus=()), "node2: 0 GPUs for cluster.processes_per_node 2; expected as many"),
        (facts(free_bytes=2 * 10**9), "node2: 2.00 GB free for runs/; expected 7.5 GB or more"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_cannot_work_is_an_error_with_its_remedy(changed: HostFacts, words: str) -> None:
    (finding,) = [each for each in found(hosts(changed)) if each.severity is Severity.ERROR]
    assert words in finding.text
    assert finding.hosts == ("node2",)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (facts(code=code(changed=3)), "uncommitted changes on node2 (up to 3 files): nobody can"),
        (facts(free_bytes=7 * 10**9), "node2: 7.00 GB free for runs/; expected 7.5 GB or more"),
        (facts(gpus=(Gpu("NVIDIA A100", 40960),) * 2), "2 x NVIDIA A100 40 GB on node2; each step"),
        (
            facts(interfaces=(Interface("eth0", "10.0.0.2", 9000),)),
            "MTU: 1500 on node0, node1; 9000 on node2",
        ),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_is_doubtful_is_a_warning(changed: HostFacts, words: str) -> None:
    assert words in the_only_one(hosts(changed), Severity.WARNING)


def test_a_host_without_git_is_told_and_compared_by_its_source() -> None:
    without = facts(code=code(commit=None, problem="not a git repository"))
    findings = found(hosts(without))
    assert [finding.text for finding in findings] == [
        "node2: the commit is unknown: not a git repository"
    ]
    other = facts(code=code(commit=None, source="other"))
    first, *_ = found(hosts(other))
    assert "one version on node0, node1, this machine; another on node2" in first.text


def test_a_host_that_does_not_answer_is_an_error_and_the_others_are_compared() -> None:
    reports = [*hosts(facts(versions=OLDER)), HostReport("gone", 2, None, "no route to host")]
    first, *others = found(reports)
    assert first.text == "gone: no route to host" and first.hosts == ("gone",)
    assert any(finding.text.startswith("torch: 2.13.0 on node0") for finding in others)


def test_links_that_could_not_be_measured_for_one_reason_are_one_error() -> None:
    problem = "10.0.0.1:4000: timed out; ..."
    first, *others = hosts()
    reports = [first, *(replace(each, link=None, link_problem=problem) for each in others)]
    text = the_only_one(reports, Severity.ERROR)
    assert text.startswith("node1, node2: link not measured: 10.0.0.1")


@pytest.mark.parametrize(("ahead", "words"), [(3.2, "3.2 s ahead of node0"), (-0.6, "0.6 s behi")])
def test_a_clock_that_is_off_is_a_warning(ahead: float, words: str) -> None:
    reports = hosts()
    reports[1] = replace(reports[1], link=replace(LINK, clock_offset_seconds=ahead))
    assert words in the_only_one(reports, Severity.WARNING)


@pytest.mark.parametrize(
    "link", [replace(LINK, to_first_mbps=940.0), replace(LINK, from_first_mbps=940.0)]
)
def test_a_link_far_below_the_others_is_a_warning_whichever_direction_is_slow(
    link: LinkMeasurement,
) -> None:
    reports = hosts()
    reports[2] = replace(reports[2], link=link)
    text = the_only_one(reports, Severity.WARNING)
    assert text.startswith("node2: 940 Mbit/s to or from node0, the others 9380: all ranks wait")


def test_two_hosts_have_one_link_and_nothing_to_compare_it_with() -> None:
    assert found(hosts()[:2]) == []


def test_on_processors_gpus_are_not_wanted_but_unused_ones_told() -> None:
    text = the_only_one(hosts(), Severity.WARNING, accelerator="cpu")
    assert text.startswith("node0, node1, node2: GPUs are not used: cluster.accelerator is cpu")
    none = facts(gpus=(), torch_is_for={"CUDA": None, "NCCL": None})
    assert found(hosts(none, none, none), accelerator="cpu") == []


def test_gpus_want_a_torch_for_cuda() -> None:
    none = facts(torch_is_for={"CUDA": None, "NCCL": None})
    texts = [finding.text for finding in found(hosts(none, none, none))]
    assert texts == [
        f"node{n}: its torch is built for CPUs only; install one for CUDA" for n in range(3)
    ]


def test_one_machine_alone_is_compared_with_nothing() -> None:
    alone = [HostReport("here", None, facts(code=code(source="as it is")))]
    assert found(alone, hostfile=None) == []


def test_a_small_network_wants_a_disk_all_the_same() -> None:
    full = facts(free_bytes=10**9)
    text = the_only_one(hosts(full), Severity.ERROR, checkpoint_bytes=50_000_000)
    assert text.startswith("node2: 1.00 GB free for runs/; expected 1.1 GB or more")


def test_a_hundred_hosts_are_named_in_one_short_line() -> None:
    assert join_names([f"n{number}" for number in range(100)]) == "n0, n1, n2, n3 and 96 more"


@pytest.mark.parametrize(
    ("optimizer", "megabytes"), [("AdamW", 28.7), ("OneBitAdam", 50.9), ("OneBitLamb", 65.4)]
)
def test_a_checkpoint_is_taken_for_no_smaller_than_it_is(optimizer: str, megabytes: float) -> None:
    """Sizes of the demo's own, found on disk."""
    resolved = prepare("recipes/demo.yaml", [f"optimizer.type={optimizer}"]).resolved
    size = rule_context(resolved, Inspection((), "", {})).checkpoint_bytes / 1e6
    assert megabytes <= size < 1.5 * megabytes
