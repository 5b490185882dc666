"""Profiles of clusters that no plan can be made with."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.attempt import Ended
from tests.fuzz.case import Case, Verdict
from tests.fuzz.mutations import ENCODINGS, damaged, odd_files
from tests.fuzz.nested import Entries, entries, places, with_value
from tests.fuzz.recipes import LAUGHS, SOUND

_LINK = {"name": "made up", "bandwidth_gbps": 10.0, "latency_us": 50.0, "source": "made up"}
PROFILE: dict[str, Any] = {
    "name": "made up",
    "nodes": 2,
    "gpus_per_node": 2,
    "accelerator": {
        **{"name": "made up", "sustained_tflops": 1.0, "memory_gb": 16.0, "memory_gbps": 100.0},
        "source": "made up",
    },
    "within": _LINK,
    "between": _LINK,
    "measured": [
        {
            "ranks": 4,
            "bandwidth_gbps": 10.0,
            "workload": {
                **{"variant": "n", "classes": 4, "image_size": 160, "micro_batch": 8},
                "dtype": "fp32",
            },
            "forward_seconds": 0.02,
            "backward_seconds": 0.04,
            "update_seconds": 0.005,
            "jitter": 0.02,
            "ready": [[0.1, 0.2], [0.5, 0.6], [1.0, 1.0]],
            "local_seconds": {"overlapped": 0.001},
            "collectives": {
                kind: [
                    {"payload_bytes": size, "seconds": 0.001 + size / 1e9}
                    for size in (64, 1_000_000, 10_000_000)
                ]
                for kind in ("all_reduce", "all_gather", "reduce", "all_to_all")
            },
        }
    ],
}
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e-300, 1e300, 10**10, 10**400, math.inf, math.nan),
    *("", "text", [], {}, [[]]),
)
"""For any value."""


def profiles(folder: Path, random: Random) -> Iterator[Case]:
    """Profiles of every kind of wrong."""
    recipe, path = folder / "sound.yaml", folder / "cluster.yaml"
    recipe.write_text(SOUND)
    arguments = ("plan", str(recipe), "--measured", str(path), "--json")

    def case(name: str, content: bytes) -> Case:
        path.write_bytes(content)
        return Case(name, arguments, str(path), _is_a_plan)

    for name, text in (("a billion laughs", LAUGHS), ("a list", "[]"), ("a word", "profile")):
        yield case(name, text.encode())
    for name, encode in list(ENCODINGS.items())[:3]:
        yield case(name, encode(json.dumps(PROFILE)))
    for name, content in damaged(json.dumps(PROFILE).encode(), random, 14):
        yield case(name, content)
    for number, place in enumerate(places(PROFILE, _what_counts)):
        value = ODD[number * 4 % len(ODD)] if number % 2 else random.choice(ODD)
        changed = with_value(PROFILE, place, value)
        yield case(f"{'.'.join(map(str, place))}: {value!r:.30}", _yaml(changed))
    path.unlink()
    for name in odd_files(path):
        yield Case(f"{name} for a profile", arguments, str(path))


def _is_a_plan(ended: Ended) -> Verdict:
    """Harmless is a profile by which every strategy gets a time that a step can take."""
    ranked = json.loads(ended.stdout)["ranked"]
    assert ranked
    for strategy in ranked:
        for name, value in strategy.items():
            if isinstance(value, int | float):
                assert math.isfinite(value), (strategy["strategy"], name, value)
    return Verdict.HARMLESS


def _yaml(content: Any) -> bytes:
    """JSON is YAML, but for what its numbers cannot be."""
    text = json.dumps(content)
    return text.replace("Infinity", ".inf").replace("NaN", ".nan").encode()


def _what_counts(value: Any) -> Entries:
    """A figure's source is words."""
    return [(key, below) for key, below in entries(value) if key != "source"]
