"""Progress on the console: a bar in a terminal, elsewhere occasional plain lines for a log file."""

import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from yolo.data.progress_protocol import ProgressCallback

REFRESHES_PER_SECOND = 2
"""A higher rate would take time from the training for no visible gain."""


def _console(stream: TextIO | None) -> Console:
    return Console(file=stream or sys.stderr, highlight=False, markup=False)


def _bar(console: Console, *columns: ProgressColumn, **options: Any) -> Progress | None:
    """A bar in a terminal, not started yet; None elsewhere."""
    if not console.is_terminal:
        return None
    rate = REFRESHES_PER_SECOND
    return Progress(*columns, console=console, expand=True, refresh_per_second=rate, **options)


class ConsoleProgress:
    """The progress of a training: epoch, loss, images per second, time left, and the latest AP."""

    def __init__(
        self,
        total_steps: int,
        epochs: int,
        done_steps: int = 0,
        line_seconds: float = 30.0,
        stream: TextIO | None = None,
    ) -> None:
        """`done_steps` are those of a resumed run. Writes to standard error unless a stream is given.

        Without a terminal, writes a line at the first update, then every `line_seconds`, and at the end.
        """
        self.total_steps = total_steps
        self.epochs = epochs
        self._first_step = done_steps
        self._step = done_steps
        self._started = time.monotonic()
        self._line_seconds = line_seconds
        self._last_line = -float("inf")
        self._precision = ""
        self._pending_line = ""
        self._console = _console(stream)
        self._bar = _bar(
            self._console,
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            BarColumn(bar_width=None),  # the width that the text does not need
            TextColumn("{task.description}", markup=False),
        )
        if self._bar is not None:
            self._task = self._bar.add_task("starting", total=total_steps, completed=done_steps)
            self._bar.start()

    def update(self, step: int, epoch: float, loss: float, images_per_second: float) -> None:
        """Show that `step` optimizer steps and `epoch` epochs are done, with the last step's loss and rate."""
        self._step = step
        epochs = f"epoch {min(int(epoch) + 1, self.epochs)}/{self.epochs}"
        pace = f"loss {loss:.4f}, {images_per_second:.1f} images/s{self._precision}"
        left = f"{clock(self.seconds_left())} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=f"{epochs}, {pace}, {left}")
            return
        self._pending_line = f"{epochs}, step {step}/{self.total_steps}, {pace}, {left}"
        if time.monotonic() - self._last_line >= self._line_seconds:
            self._write_line()

    def precision(self, ap: float | None, epoch: int) -> None:
        """Show this AP, measured after `epoch`, in all following updates."""
        self._precision = "" if ap is None else f", AP {ap:.3f} at epoch {epoch}"

    def note(self, text: str) -> None:
        """Write a separate line, above the bar."""
        self._console.print(text, soft_wrap=True)  # one line in a log file, however long

    def seconds_left(self) -> float | None:
        """Estimated from the pace so far, with evaluations and checkpoints; None before the first step."""
        steps = self._step - self._first_step
        if steps <= 0:
            return None
        pace = (time.monotonic() - self._started) / steps
        return pace * (self.total_steps - self._step)

    def close(self) -> None:
        """Stop the bar, or write the last line. May be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._pending_line:
            self._write_line()

    def summary(self, rows: Sequence[tuple[str, str]]) -> None:
        """Close the progress, and print a table of names and values."""
        self.close()
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, value)
        if self._console.is_terminal:
            self._console.print(table)
            return
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            self.note(f"{name:<{width}}  {value}")

    def _write_line(self) -> None:
        self.note(self._pending_line)
        self._last_line = time.monotonic()
        self._pending_line = ""


class CountProgress:
    """The progress of counted work, with its rate and the time left.

    In a terminal a bar, removed at the end; elsewhere a line every `line_seconds`, none for shorter work. The context
    manager returns `advance`.
    """

    def __init__(
        self, what: str, total: int, line_seconds: float = 30.0, stream: TextIO | None = None
    ) -> None:
        """`what` names the work: `verifying images`. Writes to standard error unless a stream is given."""
        self._what = what
        self._total = total
        self._done = 0
        self._started = self._last_line = time.monotonic()
        self._line_seconds = line_seconds
        self._console = _console(stream)
        self._bar = _bar(
            self._console,
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # output redirected to a file stays there
        )
        if self._bar is not None:
            self._task = self._bar.add_task(what, total=total, rate="")
            self._bar.start()

    def advance(self, count: int = 1) -> None:
        """Count `count` more as done."""
        self._done += count
        now = time.monotonic()
        rate = self._done / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, advance=count, rate=f"{rate:.1f}/s")
        elif now - self._last_line >= self._line_seconds:
            left = clock((self._total - self._done) / rate)
            line = f"{self._what}: {self._done}/{self._total}, {rate:.1f}/s, {left} left"
            self._console.print(line, soft_wrap=True)
            self._last_line = now

    def __enter__(self) -> ProgressCallback:
        return self.advance

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def clock(seconds: float | None) -> str:
    """Format a duration as 0:07, 12:30, 3:04:05 or 2d 03:04."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
