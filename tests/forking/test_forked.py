"""A forked process is to tests what a started one would be."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ON_A_PROCESSOR
from tests.forking.popen import LAUNCHER, program_in
from tests.forking.server import ForkedProcess, run_forked


def forked(tmp_path: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *words]
    return run_forked(command, tmp_path, ON_A_PROCESSOR | environment, tmp_path / "output", 60)


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        ("print(1)", 0, "1\n"),
        ("import sys; sys.exit(75)", 75, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("import os; os._exit(76)", 76, ""),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(print, 'last'); print('first')", 0, "first\nlast\n"),
    ],
)
def test_its_exit_code_and_output_are_those_of_an_interpreter(
    tmp_path: Path, code: str, expected: int, said: str
) -> None:
    ran = forked(tmp_path, "-c", code)
    assert (ran.returncode, ran.stdout) == (expected, said)


def test_an_exception_is_exit_code_1_and_a_traceback(tmp_path: Path) -> None:
    ran = forked(tmp_path, "-c", "raise ValueError('wrong')")
    assert ran.returncode == 1
    assert ran.stdout.startswith("Traceback") and ran.stdout.endswith("ValueError: wrong\n")


def test_it_has_the_imports_its_own_session_and_its_folder_arguments_and_environment(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "print('torch' in sys.modules and 'deepspeed' in sys.modules)\n"
        "print(os.getsid(0) == os.getpid(), os.getcwd(), *sys.argv[1:], os.environ['ADDED'])\n"
        "import multiprocessing; print(multiprocessing.get_start_method())\n"
        "print(__name__, os.path.basename(sys.argv[0]), sorted(os.listdir('/proc/self/fd'))[:3])\n"
    )
    ran = forked(tmp_path, str(script), "one", "two", ADDED="three")
    first, second, start_method, third = ran.stdout.splitlines()
    assert start_method == "fork"
    assert first == "True"
    assert second == f"True {tmp_path} one two three"
    assert third == "__main__ script.py ['0', '1', '2']"


def test_what_it_starts_of_this_interpreter_is_its_child_and_forked_too(tmp_path: Path) -> None:
    inner = "import os, sys; print(os.getppid(), 'torch' in sys.modules); sys.exit(3)"
    outer = (
        "import os, subprocess, sys\n"
        f"ran = subprocess.run([sys.executable, '-c', {inner!r}], stdout=subprocess.PIPE, text=True)\n"
        "print(ran.stdout.strip() == f'{os.getpid()} True', ran.returncode)\n"
        "print(subprocess.check_output(['sh', '-c', 'echo other'], text=True), end='')\n"
    )
    assert forked(tmp_path, "-c", outer).stdout == "True 3\nother\n"


def test_the_parents_temporary_folder_outlives_a_child(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, tempfile\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    subprocess.run([sys.executable, '-c', 'pass'], check=True)\n"
        "    print(os.path.isdir(folder))\n"
        "print(os.path.isdir(folder))\n"
    )
    assert forked(tmp_path, "-c", code).stdout == "True\nFalse\n"


def test_pythonpath_and_its_sitecustomize_count(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('customized')")
    (tmp_path / "found.py").write_text("print('found')")
    ran = forked(tmp_path, "-m", "found", PYTHONPATH=str(tmp_path))
    assert ran.stdout == "customized\nfound\n"


def test_its_whole_session_can_be_killed_and_its_output_read_meanwhile(tmp_path: Path) -> None:
    code = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '600'])"
    process = ForkedProcess([sys.executable, "-c", code], tmp_path, os.environ, tmp_path / "output")
    end = time.monotonic() + 60
    while not (process.said and (children := psutil.Process(process.pid).children())):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    assert process.said == "begun\n"
    process.kill_all()
    assert process.returncode == -signal.SIGKILL
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_other_programs_and_other_ways_of_starting_python_are_not_forked() -> None:
    assert program_in(["true"]) is None
    assert program_in([sys.executable, "-S", "-c", "pass"]) is None
    assert program_in(["/usr/bin/env", sys.executable, "-c", "pass"]) is None
    program = program_in([LAUNCHER, "--num_accelerators", "2", "script.py"])
    assert program is not None and program.argv[0] == LAUNCHER
    words = ["nsenter", "--target", "7", "--net", "--uts", "--mount", "--pid", "--"]
    there = program_in([*words, "env", "--chdir=/tmp", sys.executable, "-u", "-m", "this", "x"])
    assert there is not None
    assert (there.host, there.folder, there.argv) == (7, "/tmp", ["this", "x"])
