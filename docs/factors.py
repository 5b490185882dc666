"""Take over what `make bench-factors` wrote into the page factors.md: `python -m docs.factors [FOLDER]`, by default results/."""

import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "factors.md"
FIGURES = DOCS / "figures"
TABLES = re.compile(r"(?<=<!-- generated: tables -->\n).*?(?=<!-- end -->)", re.DOTALL)


def with_tables(page: str, tables: str) -> str:
    """The page with other tables."""
    return TABLES.sub(lambda _: f"\n{tables.strip()}\n\n", page)


def main(folder: Path) -> None:
    """Copy the figures and their picture, and write the tables."""
    tables = (folder / "factors.md").read_text(encoding="utf-8")
    for name in ("factors.json", "factors.png"):
        shutil.copy(folder / name, FIGURES / name)
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main(Path(*(sys.argv[1:] or ["results"])))
