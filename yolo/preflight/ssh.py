"""Run a module of this package on another host, as DeepSpeed's launcher does: by ssh, in the same folder, with the same Python."""

import contextlib
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from yolo.errors import ClusterError

CONNECT_SECONDS = 10
SSH_FAILED = 255
"""ssh's exit code for failures of its own, those of the command aside."""
TOLD = 3
"""Exit code of a module of this package that has said in its last line what is wrong and what to do."""


class NoAnswer(ClusterError):
    """A host that did not answer, in ssh's words or its own, and what to do."""


def command_for(host: str | None, module: str, *arguments: str, seconds: int) -> list[str]:
    """What runs the module on a host, or on this machine without ssh where it is None."""
    module_command = [sys.executable, "-m", module, *arguments]
    if host is None:
        return module_command
    there = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(module_command)}"
    return _over_ssh(host, there, seconds)


def why_silent(host: str, seconds: int) -> str | None:
    """None where a host runs a command by ssh within `seconds`; otherwise why not, in ssh's words."""
    try:
        ran = subprocess.run(
            _over_ssh(host, "true", seconds),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
        )
    except FileNotFoundError:
        return "ssh: no such program"
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds} s"
    said = ran.stderr.decode(errors="replace").strip().splitlines()
    return None if ran.returncode == 0 else (said or [f"exit code {ran.returncode}"])[-1]


def _over_ssh(host: str, command: str, seconds: int) -> list[str]:
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(min(CONNECT_SECONDS, seconds)),
        # A master connection that ssh would leave behind keeps the pipes open that are read here to their end.
        "ControlMaster": "no",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", *words, host, command]


def answer_from(host: str | None, module: str, *arguments: str, seconds: int) -> str:
    """The line of JSON that the module prints on a host. Raises NoAnswer, after `seconds` at the latest."""
    command = command_for(host, module, *arguments, seconds=seconds)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError:
        raise NoAnswer(f"{command[0]}: no such program; install OpenSSH's client") from None
    try:
        out, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise NoAnswer(_too_slow(host, seconds)) from None
    finally:
        _end(process)
    line = _json_line(out.decode(errors="replace").splitlines())
    if process.returncode or line is None:
        raise NoAnswer(_why(host, process.returncode, error))
    return line


@contextmanager
def running(host: str, module: str, *arguments: str, seconds: int) -> Iterator[str]:
    """A module that stays on a host until the context ends, and the line of JSON that it begins with. Raises NoAnswer."""
    process = subprocess.Popen(
        command_for(host, module, *arguments, seconds=seconds),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # so that select sees what was not read yet
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        yield _first_json_line(process, process.stdout, host, seconds)
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CONNECT_SECONDS)
    finally:
        _end(process)


def _first_json_line(
    process: "subprocess.Popen[bytes]", output: IO[bytes], host: str, seconds: int
) -> str:
    deadline = time.monotonic() + seconds
    while select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
        line = output.readline().decode(errors="replace")
        if not line:
            _, error = process.communicate()
            raise NoAnswer(_why(host, process.returncode, error))
        if found := _json_line([line]):
            return found
    raise NoAnswer(_too_slow(host, seconds))


def _json_line(lines: list[str]) -> str | None:
    """The last that is JSON: a host's shell may greet first."""
    return next((line for line in reversed(lines) if line.startswith("{")), None)


def _too_slow(host: str | None, seconds: int) -> str:
    advice = f"try `ssh {host} true`, or give it longer with --timeout" if host else "try --timeout"
    return f"no answer within {seconds} s; {advice}"


def _why(host: str | None, code: int, error: bytes) -> str:
    said = error.decode(errors="replace").strip().splitlines()
    words = said[-1] if said else f"nothing was printed, exit code {code}"
    if code == TOLD:
        return words
    if code == SSH_FAILED:
        return f"{words}; expected `ssh {host} true` to work without a question: see its name, network and keys"
    return f"{words}; expected this repository in {Path.cwd()} at the same commit, and {sys.executable} there"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Leaves nothing behind here; what was started on the host gives up by itself."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
