"""Keys to others' services, which have no place in a recipe: it is copied into runs, logs and pages for all to read."""

import os
import re

from yolo.errors import RecipeError

WANDB_KEY = re.compile(r"(?<![\w/.-])(local-)?[0-9a-f]{40}(?![\w/.-])|wandb_v\d+_\w{20,}")
"""As W&B makes them; 40 hexadecimal digits within a path are a commit."""


def refuse_keys(text: str, place: str) -> None:
    """RecipeError where a text holds a W&B key, or what WANDB_API_KEY is; the key is not in the message."""
    own = os.environ.get("WANDB_API_KEY", "")
    for number, line in enumerate(text.splitlines(), 1):
        if WANDB_KEY.search(line) or (len(own) > 7 and own in line):
            where = f"{place}:{number}" if "\n" in text else place
            raise RecipeError(
                f"{where}: holds what looks like a key of W&B, which is never written into a recipe: set "
                "WANDB_API_KEY, or call `wandb login`"
            )
