"""Where a value of a recipe came from."""

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """The kinds of places that a value can come from, weakest first."""

    DEFAULT = "default"
    PARENT = "parent recipe"
    FILE = "recipe"
    OVERRIDE = "override"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Origin:
    """A value's source and, in words, the place: file and line, the override, or a formula and its reason."""

    source: Source
    place: str = ""

    def __str__(self) -> str:
        if self.source is Source.FILE:
            return self.place
        return f"{self.source}: {self.place}" if self.place else str(self.source)


DEFAULT = Origin(Source.DEFAULT)
