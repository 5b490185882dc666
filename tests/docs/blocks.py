"""The code blocks of a page, and the commands in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

FILE_NAME = re.compile(r"(?:#!.*\n)?# ([\w./-]+)\n")
"""The first line of a block that is a file, or its second after `#!`: `# recipes/mine.yaml`."""
RUN = ("sh", "console", "python")
FILES = ("yaml", "bash", "dockerfile", "ini")
SHOWN_ONLY = ("text", "json")
INLINE_COMMAND = re.compile(r"(?:yolo [a-z]+|make|pytest|python -m|deepspeed) .+")
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b(?!=)|\.\.\.|<|\[-|\|")
"""What stands in a command for something else: RECIPE, `...`."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, or a command in the text of a line."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The path that its text is to be written to, if it is a file."""
        found = FILE_NAME.match(self.text)
        is_module = self.language == "python" and found is not None and found[1].endswith(".py")
        if self.language in FILES or is_module:
            assert found, f"{self}: its first line has to name the file: `# recipes/mine.yaml`"
            return found[1]
        return None

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, one each; a here-document belongs to its command."""
        if self.language == "console":
            return [command for command, _ in self.dialogue]
        if self.language != "sh":
            return []
        found: list[str] = []
        lines = iter(self.text.splitlines())
        for line in lines:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            while line.endswith("\\"):
                line += "\n" + next(lines)
            if here := re.search(r"<<-? *['\"]?(\w+)", line):
                for more in lines:
                    line += "\n" + more
                    if more == here[1]:
                        break
            found.append(line)
        return found

    @property
    def dialogue(self) -> list[tuple[str, str]]:
        """The commands of a console block, each with the output that the page shows."""
        if self.language != "console":
            return []
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)
        assert not parts[0].strip(), f"{self}: a console block begins with `$ `"
        return [(command, shown) for command, _, shown in (p.partition("\n") for p in parts[1:])]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path, name: str) -> Iterator[Block]:
    """All fenced blocks of a page; every language is one that the test knows what to do with."""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "fence" and token.map:
            block = Block(name, token.map[0] + 1, token.info.strip(), token.content)
            known = (*RUN, *FILES, *SHOWN_ONLY)
            assert block.language in known, f"{block}: ```{block.language}; expected one of {known}"
            yield block


def inline_commands(page: Path, name: str) -> Iterator[Block]:
    """The complete commands in the text and the tables of a page, such as `make chaos KILLS=50`."""
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        for child in token.children or ():
            text = child.content
            if child.type != "code_inline" or not INLINE_COMMAND.fullmatch(text):
                continue
            if not PLACEHOLDER.search(re.sub(r'"[^"]*"', "", text)):
                yield Block(name, (token.map or [0])[0] + 1, "sh", text)
