"""Run a module of this package on another host as DeepSpeed's launcher does: by ssh, in the same folder, with the same Python."""

import contextlib
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolo.errors import ClusterError

CONNECT_SECONDS = 10
SSH_FAILED = 255
"""ssh's exit code for its own failures, not the command's."""
EXPLAINED = 3
"""Exit code of a module of this package whose last line says what is wrong and what to do."""


class NoAnswer(ClusterError):
    """A host did not answer: ssh's message or the host's, and what to do."""


def command_for(host: str | None, module: str, *arguments: str, seconds: int) -> list[str]:
    """The command that runs a module on a host; without ssh if the host is None, which is this machine."""
    module_command = [sys.executable, "-m", module, *arguments]
    if host is None:
        return module_command
    there = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(module_command)}"
    return _over_ssh(host, there, seconds)


def why_silent(host: str, seconds: int) -> str | None:
    """None if a host runs a command by ssh within `seconds`; otherwise ssh's reason."""
    command = _over_ssh(host, "true", seconds)
    try:
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds
        )
    except FileNotFoundError:
        return "ssh: no such program"
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds} s"
    return None if ran.returncode == 0 else _last_line(ran.stderr) or f"exit code {ran.returncode}"


def _over_ssh(host: str, command: str, seconds: int) -> list[str]:
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(min(CONNECT_SECONDS, seconds)),
        # A master connection left behind by ssh would keep open the pipes that are read to their end here.
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
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds
        )
    except FileNotFoundError:
        raise NoAnswer(f"{command[0]}: no such program; install OpenSSH's client") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(_too_slow(host, seconds)) from None
    line = _json_line(ran.stdout.decode(errors="replace").splitlines())
    if ran.returncode or line is None:
        raise NoAnswer(_failure(host, ran.returncode, ran.stderr))
    return line


@contextmanager
def running(host: str, module: str, *arguments: str, seconds: int) -> Iterator[str]:
    """Run a module on a host until the context ends; yields its first line of JSON. Raises NoAnswer.

    What was started on the host stops by itself.
    """
    with subprocess.Popen(
        command_for(host, module, *arguments, seconds=seconds),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # so that select sees what was not read yet
    ) as process:
        assert process.stdin is not None
        try:
            yield _first_json_line(process, host, seconds)
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(CONNECT_SECONDS)
        finally:
            process.kill()


def _first_json_line(process: "subprocess.Popen[bytes]", host: str, seconds: int) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        line = process.stdout.readline().decode(errors="replace")
        if not line:
            _, error = process.communicate()
            raise NoAnswer(_failure(host, process.returncode, error))
        if found := _json_line([line]):
            return found
    raise NoAnswer(_too_slow(host, seconds))


def _json_line(lines: list[str]) -> str | None:
    """The last line of JSON: a host's shell may print a greeting first."""
    return next((line for line in reversed(lines) if line.startswith("{")), None)


def _last_line(output: bytes) -> str:
    return next(reversed(output.decode(errors="replace").strip().splitlines()), "")


def _too_slow(host: str | None, seconds: int) -> str:
    advice = f"try `ssh {host} true`, or a longer --timeout" if host else "try --timeout"
    return f"no answer within {seconds} s; {advice}"


def _failure(host: str | None, code: int, error: bytes) -> str:
    message = _last_line(error) or f"nothing was printed, exit code {code}"
    if code == EXPLAINED:
        return message
    if code == SSH_FAILED:
        return f"{message}; expected `ssh {host} true` to work without a prompt: check its name, network and keys"
    return f"{message}; expected this repository in {Path.cwd()} at the same commit, and {sys.executable} there"
