"""Texts that a recipe or a data set may hold: printable, and without a key to a service."""

import os
import re

from yolo.errors import RecipeError

# YAML's and JSON's escapes can spell these; a terminal cannot show them, nor a file name or JSON hold them.
_UNUSABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_ESCAPED_BYTES = re.compile("[\udc80-\udcff]")
"""How `os.fsdecode` writes the bytes of a file name that is not UTF-8."""
WANDB_KEY = re.compile(r"(?<![\w/.-])(local-)?[0-9a-f]{40}(?![\w/.-])|wandb_v\d+_\w{20,}")
"""W&B's two formats; 40 hexadecimal digits within a path are a commit."""


def is_plain(text: str) -> bool:
    """Whether a text has no NUL, no control characters except line breaks and tabs, and no lone surrogates."""
    return _UNUSABLE.search(text) is None


def names_a_file(text: str) -> bool:
    """Whether a file can have this name: plain text, in which bytes that are not UTF-8 are written as Python does."""
    return is_plain(_ESCAPED_BYTES.sub("", text))


def refuse_keys(text: str, place: str) -> None:
    """Raise RecipeError if a text holds a W&B key or the value of WANDB_API_KEY; the message does not show the key.

    A recipe is copied into runs, logs and pages that everybody can read.
    """
    own = os.environ.get("WANDB_API_KEY", "")
    for number, line in enumerate(text.splitlines(), 1):
        if WANDB_KEY.search(line) or (len(own) > 7 and own in line):
            where = f"{place}:{number}" if "\n" in text else place
            raise RecipeError(
                f"{where}: looks like a key of W&B, which must not be written into a recipe; set WANDB_API_KEY, or run "
                "`wandb login`"
            )
