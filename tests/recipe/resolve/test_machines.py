"""How many machines and processes a recipe has, and what they compute on."""

from pathlib import Path

import pytest

from yolo.errors import RecipeError
from yolo.recipe import Recipe, load_recipe, resolve
from yolo.recipe.resolve import hardware

DEMO = Path("recipes/demo.yaml")


@pytest.fixture(autouse=True)
def without_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "DRIVER_FOLDER", tmp_path / "no driver")
    monkeypatch.setattr(hardware, "DEVICES", tmp_path / "no devices")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("worker-1 slots=4\nworker-2 slots=4\n")
    return path


def resolved(*overrides: str) -> Recipe:
    return resolve(load_recipe(DEMO, overrides)).recipe


def test_the_slots_of_a_hostfile_are_the_ranks_and_are_gpus(hostfile: Path) -> None:
    found = resolve(load_recipe(DEMO, [f"cluster.hostfile={hostfile}"]))
    cluster = found.recipe.cluster
    assert (found.world_size, cluster.nodes, cluster.processes_per_node) == (8, 2, 4)
    assert (cluster.accelerator, cluster.backend) == ("cuda", "nccl")
    origin = found.origin(("cluster", "accelerator"))
    assert "slots in a hostfile are GPUs; for hosts without GPUs set cpu" in str(origin)


def test_hosts_without_gpus_are_named_as_such(
    hostfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = resolved(f"cluster.hostfile={hostfile}", "cluster.accelerator=cpu").cluster
    assert (cluster.processes_per_node, cluster.backend) == (4, "gloo")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert resolved(f"cluster.hostfile={hostfile}").cluster.accelerator == "cpu"


def test_the_first_hosts_are_taken_and_fewer_processes_than_slots_are_allowed(
    hostfile: Path,
) -> None:
    settings = ("cluster.nodes=1", "cluster.processes_per_node=2")
    cluster = resolved(f"cluster.hostfile={hostfile}", *settings).cluster
    assert (cluster.nodes, cluster.processes_per_node) == (1, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.nodes=4"], "hosts: lists 2 hosts, and cluster.nodes is 4; add hosts or lower"),
        (
            ["cluster.processes_per_node=8"],
            "cluster.processes_per_node: 8, and worker-1 has slots=4 in",
        ),
    ],
)
def test_what_contradicts_the_hostfile_is_refused_in_one_line(
    hostfile: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(f"cluster.hostfile={hostfile}", *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unequal_slots_want_a_number(hostfile: Path) -> None:
    hostfile.write_text("worker-1 slots=4\nworker-2 slots=2\n")
    with pytest.raises(RecipeError, match="worker-1 slots=4 but worker-2 slots=2; set it to 2"):
        resolved(f"cluster.hostfile={hostfile}")
    settings = ("cluster.processes_per_node=2",)
    assert resolved(f"cluster.hostfile={hostfile}", *settings).cluster.processes_per_node == 2


def test_a_hostfile_that_is_elsewhere_is_missed_only_where_it_is_needed(tmp_path: Path) -> None:
    absent = f"cluster.hostfile={tmp_path / 'absent'}"
    with pytest.raises(RecipeError, match="absent: cannot be read: No such file"):
        resolved(absent)
    stated = resolved(absent, "cluster.nodes=2", "cluster.processes_per_node=4").cluster
    assert (stated.nodes, stated.processes_per_node) == (2, 4)


def test_ranks_need_no_hostfile(tmp_path: Path) -> None:
    """It lies on the machine that starts them."""
    loaded = load_recipe(DEMO, [f"cluster.hostfile={tmp_path / 'absent'}"])
    cluster = resolve(loaded, world_size=8, local_world_size=4).recipe.cluster
    assert (cluster.nodes, cluster.processes_per_node, cluster.accelerator) == (2, 4, "cuda")


def test_this_machine_alone_has_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = resolved().cluster
    assert (cluster.nodes, cluster.processes_per_node) == (1, 2)
    assert (cluster.accelerator, cluster.backend) == ("cpu", "gloo")
    for number in range(4):
        (tmp_path / "gpus" / str(number)).mkdir(parents=True)
    monkeypatch.setattr(hardware, "DRIVER_FOLDER", tmp_path / "gpus")
    cluster = resolved().cluster
    assert (cluster.processes_per_node, cluster.accelerator, cluster.backend) == (4, "cuda", "nccl")


def test_cuda_without_a_gpu_here_wants_other_machines() -> None:
    with pytest.raises(RecipeError, match="this machine has no GPU; name other machines"):
        resolved("cluster.accelerator=cuda")
