from pathlib import Path
from typing import get_args

import pytest
import torch.distributed as dist

from yolo.communication.backends import installed_mpi as mpi
from yolo.communication.backends.known import BACKENDS, lacks, summary
from yolo.recipe.schema.distributed import Backend


def test_every_backend_of_the_schema_is_known() -> None:
    assert set(BACKENDS) == set(get_args(Backend))


def test_what_torch_was_built_with_is_found_without_importing_it() -> None:
    available = {
        "gloo": dist.is_gloo_available(),
        "nccl": dist.is_nccl_available(),
        "xccl": dist.is_xccl_available(),
        "ucc": dist.is_ucc_available(),
    }
    assert {name: not lacks(name, gpus=1) for name in available} == available


def test_without_gpus_there_is_no_nccl() -> None:
    assert "no GPU" in lacks("nccl", gpus=0)
    assert summary(gpus=0).startswith("gloo") and "nccl (no GPU" in summary(gpus=0)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("mpiexec (Open MPI) 5.0.11\n\nReport bugs to ...", "Open MPI 5.0.11"),
        ("HYDRA build details:\n    Version:          5.0.2\n    CC: cc", "MPICH 5.0.2"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.12 Build", "MPICH 2021.12"),
        ("aprun 5", None),
    ],
)
def test_an_mpi_is_known_by_what_its_mpiexec_says(
    printed: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "prefix" / "bin" / "mpiexec"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{printed}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setattr(mpi.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(program.parent))
    found = mpi.installed_mpi()
    assert (str(found) if found else None) == expected
    if found:
        (tmp_path / "prefix" / "lib").mkdir()
        library = tmp_path / "prefix" / "lib" / mpi.LIBRARIES[found.kind]
        assert found.library is None
        library.touch()
        assert found.library == library
        assert mpi.installed_mpi("openmpi" if found.kind == "mpich" else "mpich") is None
