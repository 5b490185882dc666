"""Which texts a terminal can show, a file be named by and JSON hold: YAML's and JSON's escapes can spell others."""

import re

_UNUSABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def is_plain(text: str) -> bool:
    """Whether a text is without NUL, other control characters but line breaks and tabs, and halves of characters."""
    return _UNUSABLE.search(text) is None
