"""DeepSpeed's AdamW for optimizer states that live in the host's memory: C++, compiled where a machine first needs it."""

import logging
from pathlib import Path

from deepspeed.ops.op_builder import CPUAdamBuilder
from filelock import FileLock

from yolo.recipe.schema.recipe import Recipe

logger = logging.getLogger(__name__)


def compile_cpu_adam(recipe: Recipe) -> None:
    """Have DeepSpeed's CPU Adam ready where the recipe will step with it, compiled by one process of a machine at a time.

    torch's own lock is a file: a process that is killed while it compiles leaves it behind, and every later one waits for
    it for ever (torch 2.13.0, `torch.utils.file_baton`). A lock of the operating system's goes with its process, so whoever
    holds ours may take torch's away.

    Raises RuntimeError where it cannot be compiled, as without a compiler.
    """
    if recipe.zero.offload_optimizer == "none" or recipe.optimizer.type != "AdamW":
        return
    # Here, because it takes a fifth of a second that other recipes need not spend.
    from torch.utils.cpp_extension import _get_build_directory

    builder = CPUAdamBuilder()
    folder = Path(_get_build_directory(builder.name, verbose=False))
    if not any(folder.glob("*.so")):
        logger.info("compiling DeepSpeed's CPU Adam, once a machine: a minute or two")
    with FileLock(folder.with_suffix(".lock")):
        (folder / "lock").unlink(missing_ok=True)
        builder.load(verbose=False)
