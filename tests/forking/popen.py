"""`subprocess.Popen` for a process that has torch and DeepSpeed imported: Python programs are forked from it.

A new interpreter takes seconds to import them, and a run of two ranks has five: `yolo train`, DeepSpeed's launcher, its
helper on the host, and the ranks. Whatever these do is what they do when started; only their imports are done already.
Every other program is started as ever.
"""

import atexit
import ctypes
import gc
import inspect
import logging
import multiprocessing.process
import multiprocessing.util
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

_execute_child = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_PARAMETERS = inspect.signature(_execute_child)
PYTHON = sys.executable
LAUNCHER = str(Path(PYTHON).with_name("deepspeed"))


@dataclass(frozen=True)
class Program:
    """A Python program, as a command line names it."""

    run: Callable[[], Any]
    argv: Sequence[str]
    folder: str | None = None
    environment: Mapping[str, str] | None = None
    """Added to the one it is given."""
    host: int | None = None
    """A process whose namespaces it runs in."""


def program_in(command: Sequence[str | os.PathLike[str]]) -> Program | None:
    """What a command runs, where that is a program of this interpreter; None for any other."""
    words = [os.fspath(word) for word in command]
    match words:
        case ["nsenter", "--target", pid, "--net", "--uts", "--mount", "--pid", "--", *inner]:
            program = program_in(inner)
            return program and replace(program, host=int(pid))
        case ["env", chdir, *inner] if chdir.startswith("--chdir="):
            program = program_in(inner)
            return program and replace(program, folder=chdir.removeprefix("--chdir="))
    if words[0] == LAUNCHER:
        return Program(_module("deepspeed.launcher.runner"), words)
    if words[0] != PYTHON:
        return None
    words = words[2:] if words[1:2] == ["-u"] else words[1:]
    match words:
        case ["-m", module, *arguments]:
            return Program(_module(module), [module, *arguments])
        case ["-c", code, *arguments]:
            return Program(lambda: exec(code, {"__name__": "__main__"}), ["-c", *arguments])
        case [script, *_] if "site-packages" in script:
            return None  # py-cpuinfo, which DeepSpeed starts: it needs none of the imports and forks in its turn
        case [script, *arguments] if script.endswith(".py"):
            return Program(_script(script), [script, *arguments])
    return None


def _module(name: str) -> Callable[[], Any]:
    return lambda: runpy.run_module(name, run_name="__main__", alter_sys=True)


def _script(path: str) -> Callable[[], Any]:
    def run() -> None:
        sys.path.insert(0, str(Path(path).parent))
        runpy.run_path(path, run_name="__main__")

    return run


def fork_python() -> None:
    """From now on, what this process starts of its own interpreter is forked from it."""
    subprocess.Popen._execute_child = _forking_child  # type: ignore[attr-defined]


def _forking_child(popen: Any, *arguments: Any) -> None:
    """In the place of a method of CPython's `subprocess.Popen`, whose pipes are open already."""
    asked = _PARAMETERS.bind(popen, *arguments).arguments
    is_for_a_shell = asked["shell"] or isinstance(asked["args"], str)
    program = None if is_for_a_shell else program_in(asked["args"])
    if program is None:
        return _execute_child(popen, *arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    popen.pid = os.fork()
    if not popen.pid:
        try:
            for target, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
                if asked[name] != -1:
                    os.dup2(asked[name], target)
            if asked["start_new_session"]:
                os.setsid()
            _restore_signals()
            if asked["preexec_fn"] is not None:
                asked["preexec_fn"]()
            if asked["cwd"] is not None:
                os.chdir(asked["cwd"])
        except BaseException:
            traceback.print_exc()
            os._exit(255)
        run_program(program, os.environ.copy() if asked["env"] is None else asked["env"])
    popen._child_created = True
    pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
    popen._close_pipe_fds(*(asked[name] for name in pipes))
    return None


def run_program(program: Program, environment: Mapping[str, str]) -> NoReturn:
    """Become a process that runs a program; for one that was just forked."""
    code = 255
    try:
        _forget_the_parents_duties()
        _close_all_but_standard()
        if program.host is not None:
            _enter(program.host)
        if program.folder is not None:
            os.chdir(program.folder)
        os.environ.clear()
        os.environ.update({**environment, **(program.environment or {})})
        time.tzset()
        _extend_path()
        sys.argv = list(program.argv)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        code = _exit_code(program.run)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as an interpreter does
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 120
        os._exit(code)


def _exit_code(run: Callable[[], Any]) -> int:
    """As the interpreter makes it of how a program ended."""
    try:
        run()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _extend_path() -> None:
    """What PYTHONPATH has, as an interpreter finds it that starts, a `sitecustomize` included."""
    added = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    sys.path[:] = ["", *dict.fromkeys([*added, *sys.path[1:]])]
    if any(Path(path, "sitecustomize.py").exists() for path in added):
        sys.modules.pop("sitecustomize", None)
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401


def _restore_signals() -> None:
    """As exec does: what is ignored stays so, what has a handler has none any more."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _forget_the_parents_duties() -> None:
    """What is to be done at its end, its temporary folders to remove and its processes to wait for.

    Its objects are never collected here: one that has a file would close the same number again, which is another's by then.
    """
    gc.freeze()
    atexit._clear()
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]
    multiprocessing.process._children = set()  # type: ignore[attr-defined]


def _close_all_but_standard() -> None:
    for descriptor in [int(name) for name in os.listdir("/proc/self/fd")]:
        if descriptor > 2:
            try:
                os.close(descriptor)
            except OSError:
                continue


def _enter(pid: int) -> None:
    """As nsenter(1) does: enter a process's namespaces, and wait there for a child, which alone is in its process namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    handles = [
        os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("pid", "net", "uts", "mnt")
    ]
    for handle in handles:
        if libc.setns(handle, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.close(handle)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)
