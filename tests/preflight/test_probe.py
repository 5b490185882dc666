import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

QUESTION = json.dumps({"files": [], "folders": [], "splits": [], "seconds": 20})


def probed(folder: Path = REPOSITORY, code: str = "pass", **environment: str) -> Any:
    program = f"{code}; import runpy; runpy.run_module('yolo.preflight.probe', run_name='__main__')"
    ran = subprocess.run(
        [sys.executable, "-c", program, QUESTION],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_versions_are_told_without_importing_the_packages() -> None:
    packages = "('torch', 'deepspeed', 'numpy', 'pydantic', 'ruamel')"
    facts = probed(code=f"import sys; sys.modules.update(dict.fromkeys({packages}))")
    for name in ("torch", "deepspeed", "numpy"):
        assert facts["versions"][name] == version(name)


def test_what_torch_was_built_for_is_what_torch_says() -> None:
    import torch

    assert probed()["torch_is_for"]["CUDA"] == torch.version.cuda


def test_cuda_and_nccl_are_read_from_what_is_installed(tmp_path: Path) -> None:
    """A torch for GPUs as its wheel lies on disk: it is not there to be imported."""
    described = {
        "torch-2.13.0.dist-info": "Name: torch\nVersion: 2.13.0+cu130\n"
        'Requires-Dist: nvidia-nccl-cu13==2.28.9; platform_system == "Linux"\n',
        "nvidia_nccl_cu13-2.28.9.dist-info": "Name: nvidia-nccl-cu13\nVersion: 2.28.9\n",
    }
    for folder, text in described.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{text}")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n"
    )
    facts = probed(PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    assert facts["versions"]["torch"] == "2.13.0+cu130"
    assert facts["torch_is_for"] == {"CUDA": "13.0", "NCCL": "2.28.9"}


def test_without_git_the_reason_is_told_and_the_source_all_the_same(tmp_path: Path) -> None:
    code = probed(tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path.parent))["code"]
    assert code["commit"] is None and "not a git repository" in code["problem"]
    assert len(code["source"]) == 64


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, [0, 1, 2]), ("2, 0", [2, 0]), ("", []), ("-1", [])],
)
def test_gpus_are_those_that_a_process_would_see(
    tmp_path: Path, visible: str | None, expected: list[int]
) -> None:
    """Of the driver's tool only its documented output is here; `-i` takes numbers."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'numbers="0 1 2"\n'
        'case "$*" in *" -i "*) numbers=$(echo "$*" | sed "s/.* -i //; s/,/ /g") ;; esac\n'
        'for n in $numbers; do echo "NVIDIA H100 80GB HBM3, 8155$n"; done\n'
    )
    tool.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    gpus = probed(PATH=path, **environment)["gpus"]
    assert [gpu["memory_mib"] - 81550 for gpu in gpus] == expected
    assert all(gpu["name"] == "NVIDIA H100 80GB HBM3" for gpu in gpus)


def test_a_driver_that_fails_has_no_gpu_to_offer(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    tool.chmod(0o755)
    assert probed(PATH=f"{tmp_path}:{os.environ['PATH']}")["gpus"] == []


def test_interfaces_are_told_with_their_mtu() -> None:
    by_name = {each["name"]: each for each in probed()["interfaces"]}
    assert by_name["lo"]["address"] == "127.0.0.1"
    assert by_name["lo"]["mtu"] == int(Path("/sys/class/net/lo/mtu").read_text())
