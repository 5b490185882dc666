"""README.md and the pages of docs/: limits, links, and that generated pages are fresh."""

import itertools
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from docs import factors
from docs.generate import pages, with_accuracy
from tests.conftest import REPOSITORY
from tests.planner.conftest import measured_accuracy
from yolo.bench.factors.rows import read_results
from yolo.bench.factors.tables import markdown

README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "recipes/README.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]


def links_of(page: Path) -> list[str]:
    """The targets of a page's links and images."""
    found = []
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if isinstance(target, str):
                found.append(target)
    return found


def anchors_of(page: Path) -> set[str]:
    """The anchors that the repository's page and the site give to a page's headings."""
    tokens = MarkdownIt().parse(page.read_text())
    titles = [
        after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_one_screen() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1200
    assert max(map(len, text.splitlines())) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in links_of(page):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{page}: {link}"


@pytest.mark.slow(15)
def test_the_generated_pages_are_fresh() -> None:
    """`make configs` writes them again."""
    expected = pages()
    for name, text in expected.items():
        assert (REPOSITORY / "docs" / name).read_text() == text, name
    found = {
        f"recipes/{path.relative_to(REPOSITORY / 'docs/recipes')}"
        for path in (REPOSITORY / "docs/recipes").rglob("*.md")
    }
    assert found == {name for name in expected if name.startswith("recipes/")}


def test_the_tables_of_the_factors_are_those_of_their_figures() -> None:
    """`python -m docs.factors` takes over both."""
    tables = markdown(read_results(factors.FIGURES / "factors.json"))
    page = factors.PAGE.read_text()
    assert factors.with_tables(page, tables) == page
    assert factors.with_tables(page, "others") != page


def test_measured_ap_is_written_into_the_columns_of_a_table() -> None:
    table = (
        "<!-- generated: strategies -->\n"
        "| recipe | AP | as fast |\n|---|---|---|\n"
        "| [demo](docs/recipes/demo.md) | ? | 1 |\n"
        "| [PowerSGD](docs/recipes/communication/powersgd.md) | ? | 6.6 |\n<!-- end -->\n"
    )
    text = with_accuracy(table, measured_accuracy(powersgd=-0.1))
    assert "| [demo](docs/recipes/demo.md) | 0.610 | 1 |" in text
    assert "| [PowerSGD](docs/recipes/communication/powersgd.md) | 0.510 | 6.6 |" in text
    assert "`powersgd` lost more than 0.01 AP" in text
    assert with_accuracy(text, measured_accuracy(powersgd=-0.1)) == text
    assert "No strategy lost more than 0.01 AP" in with_accuracy(text, measured_accuracy())


def test_every_page_is_in_the_sites_list() -> None:
    listed = (REPOSITORY / "docs/_toc.yml").read_text()
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert re.search(rf"(file|root): {page.stem}$", listed, re.MULTILINE), page.name
