"""The command line: parse, call one function, print."""

import argparse
import io
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from yolo import __version__
from yolo.cli import conversion, plan, recipes, training
from yolo.cli.arguments import add_command, parse
from yolo.errors import exit_code_of

SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 if the user has to correct something."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may be no text
    options = parse(_parser(), arguments)
    _log_to_stderr()
    run: Callable[[argparse.Namespace], None] = options.run_command
    return exit_code_of(lambda: run(options), options.command)


def _log_to_stderr() -> None:
    """Print this package's information too, by Python's handler of last resort: unlike others it has no prefix."""
    logging.getLogger("yolo").setLevel(logging.INFO)
    if logging.lastResort is not None:
        logging.lastResort.setLevel(logging.INFO)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="yolo",
        description="Train YOLOv5 with DeepSpeed from a short recipe.",
        epilog="`yolo COMMAND --help` explains a command. Overrides look like train.epochs=30.",
    )
    parser.add_argument("--version", action="version", version=f"yolo {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (recipes, plan, training, conversion):
        module.add_commands(commands)
    add_command(commands, _completion).add_argument("shell", choices=SHELLS)
    return parser


def _completion(options: argparse.Namespace) -> None:
    """Print the tab completion of a shell. For bash: `source <(yolo completion bash)`, for example in ~/.bashrc."""
    import shtab

    parser = _parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if action.type is Path or action.dest == "words":
                action.complete = shtab.FILE
    print(shtab.complete(parser, options.shell))
