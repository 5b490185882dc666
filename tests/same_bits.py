"""Do two commits train to the same bits? `make same-bits BASE=<commit>`, or alone: `python tests/same_bits.py`.

Short fp32 runs of 2 ranks through the real launcher, one for each way of exchange and update, and one that is resumed in
the middle; a hash of the last weights of each. It knows a commit by what users know: the command line, the keys of a
recipe and the files of a run. So it may compare commits whose package looks altogether different.
"""

import argparse
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from safetensors.numpy import load_file

REPOSITORY = Path(__file__).parents[1]
SIDE_BY_SIDE = 2
"""Runs at a time."""
RECIPE = """\
description: short and exact
model: {variant: n, image_size: 64}
data: {root: %s, workers: 0, augmentation: {mosaic: 0.5}}
train: {epochs: 3, global_batch: 8, warmup_epochs: 1.0, warmup_min_steps: 1, ema_ramp_steps: 10}
loss: {cls: 4.0}
optimizer: {type: AdamW, lr: 0.003}
precision: {dtype: fp32}
evaluation: {every_epochs: 3}
checkpoint: {every_epochs: 1, keep: 3}
tracking: {wandb: {mode: disabled}}
cluster: {processes_per_node: 2, threads_per_process: 1, restarts: 0}
"""
"""24 images: 9 steps."""
RUNS: Mapping[str, tuple[str, ...]] = {
    "SGD": ("optimizer.type=SGD", "optimizer.lr=0.02"),
    "AdamW": (),
    "OneBitAdam": ("optimizer.type=OneBitAdam", "optimizer.freeze_step=4"),
    "ZeroOneAdam": (
        *("optimizer.type=ZeroOneAdam", "optimizer.var_freeze_step=4"),
        *("optimizer.var_update_scaler=1", "optimizer.local_step_scaler=2"),
    ),
    "local steps": ("communication.sync_every=2",),
    "PowerSGD": ("communication.reducer=powersgd", "communication.powersgd_start_step=3"),
    "ZeRO 1": ("zero.stage=1",),
    "ZeRO 3": ("zero.stage=3",),
    "accumulation 2": ("train.gradient_accumulation_steps=2",),
    "resumed": ("optimizer.type=OneBitAdam", "optimizer.freeze_step=2"),
}
RESUMED_AFTER = "epoch-0001"
"""The checkpoint from which `resumed` is trained to its end a second time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the hashes of this tree's runs, and with --base compare them with a commit's; 1 where any differ."""
    parser = argparse.ArgumentParser(prog="tests/same_bits.py", description=__doc__)
    parser.add_argument("--base", metavar="COMMIT", help="compare with this commit")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS, metavar="RUN")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="same-bits-") as name:
        folder = Path(name)
        draw = (sys.executable, "-m", "yolo.data.demo", "--root", str(folder / "demo"))
        draw += ("--train-images", "24", "--val-images", "8")
        subprocess.run(draw, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        here = hashes(REPOSITORY, options.runs, folder, "here")
        if options.base is None:
            for run, bits in here.items():
                print(f"{run:16} {bits}")
            return 0
        with checked_out(options.base, folder / "base") as tree:
            there = hashes(tree, options.runs, folder, "there")
    return compare(here, there, options.base)


def compare(here: Mapping[str, str], there: Mapping[str, str], base: str) -> int:
    """Print both sides; 1 where a run's bits differ."""
    for run, bits in here.items():
        print(f"{run:16} {bits}  {'same' if there[run] == bits else f'NOT {there[run]}'}")
    differing = [run for run in here if here[run] != there[run]]
    print(f"{len(here) - len(differing)} of {len(here)} runs end with the bits of {base}")
    return int(bool(differing))


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A commit's files, in a folder of their own."""
    git = ("git", "-C", str(REPOSITORY), "worktree")
    added = subprocess.run(
        [*git, "add", "--detach", str(folder), commit], capture_output=True, text=True
    )
    if added.returncode:
        raise SystemExit(f"--base {commit}: {added.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def hashes(tree: Path, runs: Sequence[str], folder: Path, side: str) -> dict[str, str]:
    """Of each run's last weights, trained by the package in `tree`."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE % (folder / "demo"))
    python = python_of(tree)

    def trained(run: str) -> str:
        work = folder / f"{side}-{run.replace(' ', '-')}"
        work.mkdir()
        train(python, tree, recipe, work, *RUNS[run])
        if run == "resumed":
            go_back(work)
            train(python, tree, recipe, work, *RUNS[run], "checkpoint.resume=auto")
        return hash_of(last_run(work) / "weights" / "last.safetensors")

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return dict(zip(runs, pool.map(trained, runs), strict=True))


def python_of(tree: Path) -> Path:
    """The interpreter that has what the tree requires; made by its own `make setup` if this one may not."""
    if (tree / "requirements.txt").read_bytes() != (REPOSITORY / "requirements.txt").read_bytes():
        subprocess.run(["make", "--silent", "-C", str(tree), "setup"], check=True)
        return tree / ".venv" / "bin" / "python"
    return Path(sys.executable)


def train(python: Path, tree: Path, recipe: Path, work: Path, *overrides: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = f"cluster.master_port={listener.getsockname()[1]}"
    ran = subprocess.run(
        [python, "-m", "yolo", "train", str(recipe), port, *overrides],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(tree), "DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ran.returncode:
        raise SystemExit(f"{tree}: {' '.join(overrides)}: exit code {ran.returncode}\n{ran.stdout}")


def last_run(work: Path) -> Path:
    (run,) = [path for path in work.glob("runs/*/*") if not path.is_symlink()]
    return run


def go_back(work: Path) -> None:
    """Leave the run as one that stopped after an earlier checkpoint."""
    run = last_run(work)
    (run / "finished").unlink()
    (run / "weights" / "last.safetensors").unlink()
    assert (run / "checkpoints" / RESUMED_AFTER).is_dir()
    for later in [path for path in (run / "checkpoints").iterdir() if path.name > RESUMED_AFTER]:
        shutil.rmtree(later)


def hash_of(weights: Path) -> str:
    """Of all tensors' names, types, shapes and bits; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(weights).items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
