"""SIGKILL at random moments to ranks, their workers and the launcher, and torn checkpoints in between."""

import random
import re
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

from yolo.bench.chaos.job import RUN_SECONDS, ChaosJob, StartedRun
from yolo.errors import BenchError

POLL_SECONDS = 0.02
LONGEST_LIFE = 30.0
"""Longest time from a start to the next kill, in seconds, for a run that starts in less."""
LIFE_SECONDS = 6.0
"""Once ranks compute, they are killed within this time."""
SHARE_WHILE_WRITING = 0.4
"""Share of the kills that wait until a checkpoint is being written."""
SHARE_TORN = 0.15
"""Share of the kills after which the newest checkpoint is damaged as well, as by a failing disk."""


@dataclass(slots=True)
class Kills:
    """The outcome of the runs that were killed; its fields are keys of results/chaos.json."""

    kills: int = 0
    resumed: int = 0
    """Kills after which the run resumed by itself and reached its end."""
    while_writing: int = 0
    torn: int = 0
    checkpoints_lost: int = 0
    """Valid checkpoints lost by a kill: neither torn here nor pruned."""
    runs: int = 0
    bit_identical: bool = True
    """Whether all runs ended with the weights of the undisturbed one."""
    events: list[dict[str, Any]] = field(default_factory=list)


def kill_at_random(job: ChaosJob, number: int, chance: random.Random) -> Kills:
    """Kill `number` times, over as many runs as that takes; compare each run with the undisturbed one."""
    found = Kills()
    if number:
        job.undisturbed()  # a set-up that cannot work is noticed before anything is killed
    while found.kills < number:
        found.runs += 1
        before = found.kills
        started = job.start(f"killed-{found.runs}")
        _kill_one_run(job, started, number, chance, found)
        found.bit_identical &= job.ends_as_undisturbed(started)
        if started.is_finished:
            found.resumed += found.kills - before
        else:
            job.log(f"the run did not reach its end: {started.output[-2000:]}")
        if found.kills == before:
            raise BenchError("a run ended before one of its processes could be killed")
        job.log(f"run {found.runs} is over: {found.kills} kills, {found.resumed} resumed")
    return found


def _kill_one_run(
    job: ChaosJob, started: StartedRun, number: int, chance: random.Random, found: Kills
) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while not started.is_over and time.monotonic() < deadline:
        if found.kills == number:
            time.sleep(0.1)
            continue
        if not _wait_for_a_moment(started, chance) or not (victims := started.victims()):
            continue
        kind = chance.choice(sorted(victims))
        valid = started.valid_checkpoints()
        newest = max(valid, default=None)
        is_writing = bool(started.unfinished_checkpoints())
        try:
            chance.choice(victims[kind]).kill()
        except psutil.NoSuchProcess:
            continue
        found.kills += 1
        found.while_writing += is_writing
        event: dict[str, Any] = {"kill": kind, "while_writing": is_writing, "newest": newest}
        # The newest checkpoint is never pruned.
        is_lost = newest is not None and newest not in started.valid_checkpoints()
        if chance.random() < SHARE_TORN and newest is not None and len(valid) > 1:  # one must stay
            _tear(started, newest, chance)
            found.torn += 1
            event["torn"] = newest
        found.checkpoints_lost += is_lost
        found.events.append(event)
        job.log(f"kill {found.kills}: {event}")
    if not started.is_over:
        started.process.kill()


def _wait_for_a_moment(started: StartedRun, chance: random.Random) -> bool:
    """Wait until a random moment of the ranks' next life; returns False if the run ended meanwhile."""
    begun = time.monotonic()
    steps = _steps_logged(started)
    if chance.random() < SHARE_WHILE_WRITING:
        while not started.unfinished_checkpoints():
            if started.is_over or time.monotonic() - begun > LONGEST_LIFE:
                return not started.is_over
            time.sleep(POLL_SECONDS / 4)
        time.sleep(chance.random() * 0.05)
        return True
    while _steps_logged(started) == steps and time.monotonic() - begun < LONGEST_LIFE:
        if started.is_over:
            return False
        if chance.random() < POLL_SECONDS / LONGEST_LIFE:
            return True  # while it starts
        time.sleep(POLL_SECONDS)
    time.sleep(chance.random() * LIFE_SECONDS)
    return not started.is_over


def _steps_logged(started: StartedRun) -> int:
    return len(re.findall(r"step \d+/\d+", started.output))


def _tear(started: StartedRun, name: str, chance: random.Random) -> None:
    """Cut a random file of a checkpoint in half, or invert one of its bytes."""
    assert started.run is not None
    path = chance.choice(sorted((started.run.checkpoints / name).glob("*.*")))
    content = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        del content[len(content) // 2 :]
    else:
        content[chance.randrange(len(content))] ^= 0xFF
    path.write_bytes(content)
