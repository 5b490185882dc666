import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo.errors import RecipeError
from yolo.recipe.load.yaml_source import parse_document, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5e8", 5e8),
        ("on", "on"),
        ("no", "no"),
        ("012", 12),
        ("1:30", "1:30"),
        ("true", True),
    ],
)
def test_scalars_are_read_as_yaml_1_2(text: str, value: object) -> None:
    assert parse_value(text, "test") == value
    assert type(parse_value(text, "test")) is type(value)


def test_every_key_knows_its_line() -> None:
    document = parse_document("a: 1\n\nb:\n  c: 2\n", "x.yaml")
    assert str(document.positions[("b", "c")]) == "x.yaml:4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "x.yaml:2: a: already set in line 1; keep one"),
        ("a: [1\n", "x.yaml:2: not YAML"),
        ("a: !!python/object/apply:os.system [true]\n", "x.yaml:1: a"),
        ("a: &x 1\nb: *x\n", "anchors and aliases are not read"),
        ("- 1\n", "x.yaml:1: expected lines of `key: value`"),
        ("a: 2026-01-01\n", "is read as a date or bytes; put it in quotes"),
        ("? [1]\n: 2\n", "a key must be one word"),
        ("a: " + "[" * 20 + "]" * 20, "nested deeper than"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=".") as caught:
        parse_document(text, "x.yaml")
    assert message in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_but_never_crashes(text: str) -> None:
    with contextlib.suppress(RecipeError):
        parse_document(text, "x.yaml")
