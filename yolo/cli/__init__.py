"""The command line: parse, call one function, print."""

import argparse
import io
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
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    options = parse(_parser(), arguments)
    run: Callable[[argparse.Namespace], None] = options.run_command
    return exit_code_of(lambda: run(options), options.command)


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
