import io

import pytest

from yolo.tracking.console import ConsoleProgress, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_it_writes_a_line_now_and_then_and_the_last() -> None:
    out = io.StringIO()
    progress = ConsoleProgress(100, epochs=10, line_seconds=3600, stream=out)
    for step in range(1, 101):
        progress.update(step, step / 10, 1.25, 64.0)
    progress.close()
    progress.close()
    written = out.getvalue().splitlines()
    assert len(written) == 2
    assert written[0].startswith("epoch 1/10, step 1/100, loss 1.2500, 64.0 images/s, 0:00 left")
    assert written[1].startswith("epoch 10/10, step 100/100")
    assert "\x1b" not in out.getvalue()


def test_the_ap_so_far_is_shown() -> None:
    out = io.StringIO()
    progress = ConsoleProgress(10, epochs=1, line_seconds=0, stream=out)
    progress.update(1, 0.1, 1.0, 1.0)
    progress.precision(0.1234, 6)
    progress.update(2, 0.2, 1.0, 1.0)
    assert "AP 0.123 at epoch 6, " in out.getvalue().splitlines()[1]


def test_the_time_left_counts_only_this_runs_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = ConsoleProgress(100, epochs=1, done_steps=50, stream=io.StringIO())
    assert progress.seconds_left() is None
    now[0] += 20
    progress.update(60, 0.6, 1.0, 1.0)
    assert progress.seconds_left() == pytest.approx(80)  # 2 s a step, 40 steps


def test_a_note_is_one_line_however_long_and_its_brackets_stay() -> None:
    out = io.StringIO()
    ConsoleProgress(1, epochs=1, stream=out).note("[bold] " + "word " * 100)
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().startswith("[bold] ")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    progress = ConsoleProgress(4, epochs=2, stream=out)
    progress.update(2, 1.0, 0.5, 10.0)
    progress.note("evaluated")
    progress.summary([("AP", "0.500")])
    assert "50%" in out.getvalue()
    assert "━" in out.getvalue()
    assert "evaluated" in out.getvalue()
    assert "0.500" in out.getvalue()


def test_the_summary_is_a_plain_table_in_a_file() -> None:
    out = io.StringIO()
    ConsoleProgress(1, epochs=1, stream=out).summary([("AP", "0.5"), ("wall time", "7 s")])
    assert out.getvalue() == "AP         0.5\nwall time  7 s\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (7, "0:07"), (750, "12:30"), (11045, "3:04:05"), (183840, "2d 03:04")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text
