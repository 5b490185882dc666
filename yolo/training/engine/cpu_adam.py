"""DeepSpeed's AdamW for optimizer states in host memory: C++, compiled at its first use on a machine."""

import logging
from pathlib import Path

from deepspeed.ops.op_builder import CPUAdamBuilder
from filelock import FileLock

from yolo.recipe.schema.recipe import Recipe

logger = logging.getLogger(__name__)


def compile_cpu_adam(recipe: Recipe) -> None:
    """Compile and load DeepSpeed's CPU Adam if the recipe uses it; one process per machine at a time.

    torch's own lock is a file: a process that is killed while it compiles leaves it behind, and every later one waits
    forever (torch 2.13.0, `torch.utils.file_baton`). A lock of the operating system ends with its process, so the process
    that holds ours may remove torch's.

    Raises RuntimeError if it cannot be compiled, for example without a compiler.
    """
    if recipe.zero.offload_optimizer == "none" or recipe.optimizer.type != "AdamW":
        return
    # Imported here: it takes 0.2 s, which other recipes need not spend.
    from torch.utils.cpp_extension import _get_build_directory

    builder = CPUAdamBuilder()
    folder = Path(_get_build_directory(builder.name, verbose=False))
    if not any(folder.glob("*.so")):
        logger.info("compiling DeepSpeed's CPU Adam, once per machine: a minute or two")
    with FileLock(folder.with_suffix(".lock")):
        (folder / "lock").unlink(missing_ok=True)
        builder.load(verbose=False)
