"""Recipes that are none, and overrides that cannot be."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from ruamel.yaml import YAML

from tests.fuzz.attempt import Ended
from tests.fuzz.case import Case, Oracle, Verdict
from tests.fuzz.mutations import ENCODINGS, damaged, odd_files

SOUND = """description: a sound one
model:
  variant: n
  image_size: 160
  anchors: auto
data:
  root: data/demo
  augmentation: {preset: low, mosaic: 0.0, hsv_s: 0.3}
train:
  epochs: 20
  global_batch: 16
  schedule: cosine
  warmup_epochs: 1.0
loss:
  cls: 4.0
optimizer:
  type: AdamW
  lr: 0.003
  betas: [0.9, 0.99]
zero: {stage: 1, reduce_bucket_size: 5e8}
cluster: {nodes: 1, processes_per_node: 2}
evaluation:
  every_epochs: 6
"""
LAUGHS = "\n".join(
    ["a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    + [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)
CANARY = "canary-was-executed"
TEXTS = {
    "a billion laughs": LAUGHS,
    "a billion laughs in a value": "description: x\ndata:\n  root: &a [x, x]\n  train: [*a, *a]",
    "an alias to itself": "model: &a [*a]",
    "a merge key": "model: &m {variant: n}\ntrain:\n  <<: *m",
    "a Python object": f"!!python/object/apply:os.system ['touch {CANARY}']",
    "a Python object within": f"model: !!python/object/apply:os.system ['touch {CANARY}']",
    "a Python object as key": f"? !!python/object/apply:os.system ['touch {CANARY}']\n: 3",
    "a Python name": "model: !!python/name:os.system",
    "a tag of its own": "model: !mine {variant: n}",
    "a tag that lies": "model: !!int {variant: n}",
    "a number tagged so, that is none": "train: {epochs: !!int twelve}",
    "a float tagged so, that is none": "train: {epochs: !!float twelve}",
    "a bool tagged so, that is none": "train: {epochs: !!bool twelve}",
    "a timestamp": "description: 2026-01-01",
    "a timestamp that is none": "description: !!timestamp yesterday",
    "binary": "description: !!binary aGVsbG8=",
    "binary that is none": "description: !!binary '*'",
    "a set": "model: !!set {variant, n}",
    "an ordered map": "model: !!omap [variant: n]",
    "pairs": "model: !!pairs [variant: n]",
    "a key twice": "train: {epochs: 3}\ntrain: {epochs: 4}",
    "a key twice within": "train:\n  epochs: 3\n  epochs: 4",
    "a list for a key": "? [a, b]\n: 3",
    "a map for a key": "? {a: b}\n: 3",
    "a number for a key": "3: 4",
    "null for a key": "~: 4",
    "a list": "- a\n- b",
    "a word": "recipe",
    "a number": "3",
    "two documents": "description: a\n---\ndescription: b",
    "a directive": "%YAML 9.9\n---\ndescription: a",
    "YAML 1.1": "%YAML 1.1\n---\ntrain: {epochs: on}",
    "a directive that is none": "%TAG ! \n---\ndescription: a",
    "tabs": "model:\n\tvariant: n",
    "an open quote": "description: 'never closed\nmodel: n",
    "an open bracket": "model: [1, 2",
    "a bell": 'description: "a\\ab"',
    "an escape of the terminal": 'description: "\\e[2J\\e[31mhello"',
    "NUL in a value": 'data: {root: "a\\0b"}',
    "NUL in a key": '"a\\0b": 3',
    "a surrogate": 'description: "\\ud800"',
    "a surrogate in a key": '"\\ud800": 3',
    "nested 200 deep": "model: " + "[" * 200 + "]" * 200,
    "nested 20,000 deep": "model: " + "[" * 20_000,
    "maps nested 5,000 deep": "model: " + "{a: " * 5_000,
    "nested 2,000 deep by indents": "\n".join(" " * n + "a:" for n in range(2_000)),
    "a list nested 3,000 deep by dashes": "model: " + "\n" + "- " * 3_000,
    "question marks": "? " * 3_000,
    "tags": "model: " + "!a " * 3_000,
    "a number of 5,000 digits": "train: {epochs: " + "9" * 5_000 + "}",
    "a number of 4,000 digits": "train: {epochs: " + "9" * 4_000 + "}",
    "1e999": "train: {epochs: 1e999}",
    "a negative count": "train: {epochs: -5}",
    "no number": "train: {epochs: .nan}",
    "minus infinity": "optimizer: {lr: -.inf}",
    "0x": "train: {epochs: 0x}",
    "0o9": "train: {epochs: 0o9}",
    "a sexagesimal": "train: {epochs: 1:30}",
    "a line of 300,000 letters": "description: " + "x" * 300_000,
    "a list of 100,000 numbers": "model: {anchors: [" + "1, " * 100_000 + "]}",
    "10,000 unknown keys": "\n".join(f"key{n}: {n}" for n in range(10_000)),
    "2 MB": "# " + "x" * 2_000_000,
    "extends nothing": "extends: gone.yaml",
    "extends a list": "extends: [a, b]",
    "extends null": "extends:",
    "extends a folder": "extends: .",
    "extends itself": "extends: bad.yaml",
    "extends itself by another name": "extends: ././bad.yaml",
    "extends /dev/zero": "extends: /dev/zero",
    "extends standard input": "extends: /dev/stdin",
    "extends NUL": 'extends: "a\\0b"',
    "extends a name of 5,000 letters": "extends: " + "x" * 5_000,
    "extends a surrogate": 'extends: "\\ud800.yaml"',
    "sections where values belong": "description: {a: b}\ntrain: {epochs: {a: b}}",
    "values where sections belong": "model: n\ntrain: 3\ndata: []",
    "a list of sections": "train: [epochs, 3]",
    "anchors of words": "model: {anchors: [[[a, b], [c, d], [e, f]], [], []]}",
    "anchors without end": "model: {anchors: " + "[" * 11 + "1" + "]" * 11 + "}",
    "a bool for a number": "train: {epochs: true}",
    "a bool for a stage": "zero: {stage: true}",
    "a DeepSpeed key that is none": "deepspeed: {zero_optimisation: {stage: 3}}",
    "a DeepSpeed key within that is none": "deepspeed: {zero_optimization: {stagee: 3}}",
    "a DeepSpeed value that is none": "deepspeed: {steps_per_print: [ten]}",
    "10 billion nodes": "cluster: {nodes: 10000000000}",
    "10 billion images a batch": "train: {global_batch: 9999999967}",
    "a size of 10 billion": "model: {image_size: 10000000000}",
}


def recipes(folder: Path, random: Random) -> Iterator[Case]:
    """Recipes of every kind of wrong."""
    path = folder / "bad.yaml"
    arguments = ("config", str(path), "--world-size", "2", "--json")

    def case(name: str, content: bytes) -> Case:
        path.write_bytes(content)
        return Case(name, arguments, str(path), _says_what_it_does(content))

    for name, text in TEXTS.items():
        yield case(name, text.encode("utf-8", "surrogatepass"))
    for name, encode in ENCODINGS.items():
        yield case(name, encode(SOUND))
    for name, content in (
        ("a byte order mark", b"\xef\xbb\xbf" + SOUND.encode()),
        ("lines that end as on Windows", SOUND.replace("\n", "\r\n").encode()),
        ("lines that end as on old Macs", SOUND.replace("\n", "\r").encode()),
        ("a cycle of two", b"extends: other.yaml"),
    ):
        (folder / "other.yaml").write_text("extends: bad.yaml")
        yield case(name, content)
    for name, content in damaged(SOUND.encode(), random, 60):
        yield case(name, content)
    for name, text in _values_swapped(random):
        yield case(name, text.encode())
    path.unlink()
    for name in odd_files(path):
        empty = _says_what_it_does(b"")
        yield Case(f"{name} for a recipe", arguments, str(path), empty)
    child = folder / "child.yaml"
    child.write_text("extends: bad.yaml\ndescription: x")
    for name in odd_files(path):
        of_child = _says_what_it_does(b"description: x")
        yield Case(f"extends {name}", ("config", str(child), "--json"), str(child), of_child)


def overrides(folder: Path, random: Random) -> Iterator[Case]:
    """Overrides of every kind of wrong, to a sound recipe."""
    path = folder / "sound.yaml"
    path.write_text(SOUND)
    for text in (
        *("=3", "train=", "train.=3", ".epochs=3", "train..epochs=3", "train.epochs.more=3"),
        *(
            "train.epoch=3",
            "Train.epochs=3",
            "train.epochs=",
            "train.epochs=~",
            "train.epochs=1e999",
        ),
        *("train.epochs=three", "train.epochs=[3]", "train.epochs={a: b}", "train.epochs=-1"),
        *("train.epochs=0x", "train.epochs=3 4", "train.epochs='3'", "train.epochs=&a 3"),
        *("train.epochs=*a", "train.epochs=" + "9" * 5_000, "train.epochs=" + "[" * 9_000),
        *("train.epochs=!!python/object/apply:os.system ['touch canary']", "train.epochs=.nan"),
        *("train.epochs=3: 4", "train.epochs=3\nmodel: n", "train={epochs: 3, epochs: 4}"),
        *(
            'data.root="a\\0b"',
            'data.root="\\ud800"',
            "data.root=pipe:cat x",
            "data.root=ftp://x/y",
        ),
        *("data.format=csv", "model.variant=xxl", "model.image_size=161", "model.image_size=1e9"),
        *(
            "optimizer.type=Adamm",
            "optimizer.betas=[0.9]",
            "optimizer.betas=[2, 3]",
            "optimizer=Adam",
        ),
        *(
            "zero.stage=4",
            "zero.stage=true",
            "zero.stage=1.5",
            "cluster.nodes=0",
            "cluster.nodes=1e11",
        ),
        *(
            "a" * 3_000 + "=3",
            "a." * 2_000 + "b=3",
            "train.epochs=" + "x" * 100_000,
            "extends=other.yaml",
        ),
        *("deepspeed.x=3", "deepspeed=[]", "cluster.master_port=80", "train.global_batch=17"),
        *("tracking.wandb.mode=maybe", "strategy=5", "train.schedule="),
        *(
            "description=",
            "description=a\x1b[31mb",
            "description=\udcff",
            "train\x1b[2J=3",
            "\udcff=3",
        ),
    ):
        arguments = ("config", str(path), text, "--world-size", "2", "--json")
        yield Case(f"{text[:60]!r}", arguments, "override ")
    del random


def _values_swapped(random: Random) -> Iterator[tuple[str, str]]:
    """One value of the sound recipe replaced by one of another type."""
    lines = SOUND.splitlines()
    with_value = [n for n, line in enumerate(lines) if line.partition(": ")[2] and "{" not in line]
    odd = ("[]", "{}", "~", "true", "-1", "1e400", "'text'", ".inf", "0.5", "[[1], {a: 2}]", "''")
    for number in with_value:
        value = random.choice(odd)
        key = lines[number].partition(": ")[0]
        changed = [*lines[:number], f"{key}: {value}", *lines[number + 1 :]]
        yield f"{key.strip()}: {value}", "\n".join(changed)


def _says_what_it_does(content: bytes) -> Oracle:
    """Harmless is a recipe each value of which, as another reader finds them in it, is the one that is used."""

    def compare(ended: Ended) -> Verdict:
        text = content.decode("utf-8-sig")
        written = YAML(typ="safe").load(text) or {}
        _assert_used(written, json.loads(ended.stdout)["recipe"], "")
        return Verdict.HARMLESS

    return compare


def _assert_used(written: Mapping[str, Any], used: Mapping[str, Any], key: str) -> None:
    for word, value in written.items():
        place = f"{key}.{word}"
        assert word in used, f"{place} was dropped"
        if isinstance(value, dict):
            _assert_used(value, used[word], place)
        elif value != "auto":
            found = used[word]
            both_numbers = isinstance(value, int | float) and isinstance(found, int | float)
            is_same = math.isclose(value, found) if both_numbers else value == found
            is_trimmed = isinstance(value, str) and value.strip() == found
            assert is_same or is_trimmed, f"{place}: {value!r} became {found!r}"
