"""SIGKILL at random moments to ranks, their workers and the launcher, and checkpoints torn meanwhile."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from yolo.bench.chaos.job import RUN_SECONDS, ChaosRun, Started, kill
from yolo.errors import BenchError
from yolo.training.checkpointing.atomic_dir import PART

POLL_SECONDS = 0.02
LONGEST_LIFE = 30.0
"""Seconds from a start until the next kill at the latest, where that starts in less."""
LIFE_SECONDS = 6.0
"""Once ranks compute, they are killed within so many."""
SHARE_WHILE_WRITING = 0.4
"""Of the kills, those that wait for a checkpoint to be under way."""
SHARE_TORN = 0.15
"""Of the kills, those after which the newest checkpoint is damaged as well, by a disk that lies, say."""


@dataclass(slots=True)
class Kills:
    """What became of the runs that were killed."""

    kills: int = 0
    resumed: int = 0
    """After so many of them the run went on by itself, to its end."""
    while_writing: int = 0
    torn: int = 0
    checkpoints_lost: int = 0
    """Whole checkpoints that a kill took away: neither torn here nor older than the ones that are kept."""
    runs: int = 0
    bit_identical: bool = True
    """Whether all of the runs ended with the weights of the one that was left alone."""
    events: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As results/chaos.json has it."""
        return asdict(self)


def kill_at_random(
    job: ChaosRun, number: int, chance: random.Random, tell: Callable[[str], None]
) -> Kills:
    """Kill `number` times, over as many runs as that takes, each compared with one that is left alone."""
    found = Kills()
    expected = job.expected_weights() if number else {}
    while found.kills < number:
        found.runs += 1
        before = found.kills
        started = job.start(f"killed-{found.runs}")
        _kill_one_run(started, number, chance, found, tell)
        run = started.run
        if run is not None and run.finished.exists():
            found.resumed += found.kills - before
            found.bit_identical &= started.weights() == expected
        else:
            found.bit_identical = False
            tell(f"the run did not reach its end: {started.said[-2000:]}")
        if found.kills == before:
            raise BenchError("a run came to its end before anything of it could be killed")
        tell(f"run {found.runs} is over: {found.kills} kills, {found.resumed} resumed")
    return found


def _kill_one_run(
    started: Started,
    number: int,
    chance: random.Random,
    found: Kills,
    tell: Callable[[str], None],
) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while not started.is_over and time.monotonic() < deadline:
        if found.kills == number:
            time.sleep(0.1)
            continue
        if not _wait_for_a_moment(started, chance):
            continue
        victims = started.victims()
        if not victims:
            continue
        kind = chance.choice(sorted(victims))
        whole = started.whole_checkpoints()
        is_writing = bool(_unfinished(started))
        if not kill(chance.choice(victims[kind])):
            continue
        found.kills += 1
        found.while_writing += is_writing
        event = {
            "kill": kind,
            "while_writing": is_writing,
            "newest": max(whole, default=None),
        }
        lost = _lost(started, whole)
        if chance.random() < SHARE_TORN and len(whole) > 1:  # one has to be left
            _tear(started, max(whole), chance)
            found.torn += 1
            event["torn"] = max(whole)
        found.checkpoints_lost += lost
        found.events.append(event)
        tell(f"kill {found.kills}: {event}")
    if not started.is_over:
        started.process.kill()


def _wait_for_a_moment(started: Started, chance: random.Random) -> bool:
    """Wait until a random moment of the ranks' next life; False where the run ended meanwhile."""
    begun = time.monotonic()
    steps = _steps_shown(started)
    if chance.random() < SHARE_WHILE_WRITING:
        while not (parts := _unfinished(started)):
            if started.is_over or time.monotonic() - begun > LONGEST_LIFE:
                return not started.is_over
            time.sleep(POLL_SECONDS / 4)
        time.sleep(chance.random() * 0.05 if parts else 0)
        return True
    while _steps_shown(started) == steps and time.monotonic() - begun < LONGEST_LIFE:
        if started.is_over:
            return False
        if chance.random() < POLL_SECONDS / LONGEST_LIFE:
            return True  # while it starts
        time.sleep(POLL_SECONDS)
    time.sleep(chance.random() * LIFE_SECONDS)
    return not started.is_over


def _steps_shown(started: Started) -> int:
    return len(re.findall(r"step \d+/\d+", started.said))


def _unfinished(started: Started) -> list[Path]:
    run = started.run
    return list(run.checkpoints.glob(f".*{PART}")) if run else []


def _lost(started: Started, whole: set[str]) -> int:
    """Of the newest checkpoint, which no pruning takes: 1 where it is not there or not whole any more."""
    return int(bool(whole) and max(whole) not in started.whole_checkpoints())


def _tear(started: Started, name: str, chance: random.Random) -> None:
    run = started.run
    assert run is not None
    files = sorted((run.checkpoints / name).glob("*.*"))
    path = chance.choice(files)
    content = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        path.write_bytes(content[: len(content) // 2])
    else:
        content[chance.randrange(len(content))] ^= 0xFF
        path.write_bytes(content)
