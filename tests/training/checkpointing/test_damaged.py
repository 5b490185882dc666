"""Checkpoints that somebody altered and sealed again: refused in one line, and none of their code runs."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

HARMLESS = ("progress", "counters", "identity", "scaler")
"""Other values of the right kind may stand there: that is another checkpoint, not a damaged one."""


@pytest.mark.slow
def test_an_altered_checkpoint_is_refused_in_one_line(launch_worker: Callable[..., Any]) -> None:
    (said,) = launch_worker("damaged", "zero.stage=0", ranks=1).values()
    counts = Counter(text.partition(":")[0] for text in said.values())
    print(f"\naltered checkpoints: {len(said)}, {dict(counts)}")
    loaded = [name for name, text in said.items() if text == "loaded"]
    others = {
        name: text
        for name, text in said.items()
        if text != "loaded" and not text.startswith("CheckpointError: ")
    }
    assert others == {}
    assert [name for name in loaded if not any(part in name for part in HARMLESS)] == [], loaded
    assert all("\n" not in text for text in said.values())
    assert counts["CheckpointError"] >= 100
