"""Property-based tests: whatever is in a file, parsers return what was written or count it, and never raise."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import tempfile
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.atomic import quoted
from recbole_prism.prepare.clean import Template, clean_text, parse_price
from recbole_prism.prepare.interactions import MAX_TIME, usable_id
from recbole_prism.prepare.readers import BadLines, RawFile, objects, parse_object
from recbole_prism.prepare.sources.base import to_number, to_token, unique_texts
from recbole_prism.prepare.sources.table import moment
from recbole_prism.prepare.sources.yelp import seconds
from recbole_prism.prepare.tables import table_rows

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


FOLDER = tempfile.TemporaryDirectory()  # hypothesis and function-scoped fixtures do not go together
NUMBERS = itertools.count()


def written(data: bytes, name: str = "f") -> Path:
    path = Path(FOLDER.name) / f"{next(NUMBERS)}_{name}"
    path.write_bytes(data)
    return path


@given(st.lists(st.binary(max_size=300).map(lambda line: line.replace(b"\n", b"")), max_size=30), st.integers(1, 3))
@example([b"\xef\xbb\xbf"], 2)  # a byte order mark cut in two
@settings(max_examples=60, deadline=None)
def test_lines_survive_compression_and_members(lines, members):
    data = b"\n".join(lines)
    cut = len(data) // members
    parts = [data[n * cut : (n + 1) * cut if n < members - 1 else None] for n in range(members)]
    path = written(b"".join(map(gzip.compress, parts)))
    raw = RawFile(path)
    found = [line for block in raw.blocks() for line in block]
    expected = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert found == (expected[:-1] if not expected[-1] else expected)
    assert len(found) == raw.n_lines


def test_lines_longer_than_a_block_are_whole():
    lines = [b"x" * 700_000, b"", b"y" * 3_000_000, b"z"]
    for data in (b"\n".join(lines), gzip.compress(b"\n".join(lines))):
        assert [line for block in RawFile(written(data)).blocks() for line in block] == lines


@given(st.binary(max_size=120), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_line_is_an_object_or_counted(line, literal):
    bad = BadLines()
    row = parse_object(line, Path("f"), 1, bad, literal)
    assert isinstance(row, dict) or bad.counts


@given(st.lists(st.dictionaries(st.text(max_size=5), ANY, max_size=4), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_python_literals_come_back(rows):
    data = "\n".join(repr(row) for row in rows).encode("utf-8", "surrogatepass")
    bad = BadLines(tolerated=1)
    try:
        found = [row for _, row in objects(RawFile(written(data)), bad, literal=True)]
    except PRISMError:
        found = []
    # nan and inf are no literals: such lines are counted
    assert len(found) + sum(bad.counts.values()) >= len(rows)
    plain = [row for row in rows if "nan" not in repr(row) and "inf" not in repr(row)]
    assert all(repr(row) in {repr(r) for r in found} or _is_json(row) for row in plain)


def _is_json(row):
    """JSON reads some literals as well, with other types (an int beyond 64 bits as a float)."""
    try:
        json.loads(repr(row))
        return True
    except ValueError:
        return False


CELL = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=10)


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=8), st.sampled_from(",\t"))
@settings(max_examples=60, deadline=None)
def test_tables_come_back(rows, separator):
    if separator == "\t":  # a quoted field may hold a tab or a line break, not both
        rows = [[cell if "\n" not in cell else cell.replace("\t", "") for cell in row] for row in rows]
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator, lineterminator="\n").writerows([["a", "b"], *rows])
    path = written(stream.getvalue().encode(), "t.csv")
    assert [row for _, row in table_rows(RawFile(path), BadLines(), separator)] == [{"a": a, "b": b} for a, b in rows]


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_usable_id_is_read_back_as_it_is(token):
    import pandas as pd

    if usable_id(token):
        text = f"user_id:token\tx:float\n{quoted(token)}\t1\n"
        frame = pd.read_csv(io.StringIO(text), delimiter="\t", engine="python", dtype={"user_id:token": str})
        assert frame["user_id:token"].tolist() == [token]


@given(ANY)
@settings(max_examples=200, deadline=None)
def test_conversions_never_raise(value):
    token, number = to_token(value), to_number(value)
    assert token is None or (isinstance(token, str) and token == token.strip())
    assert number != number or abs(number) <= MAX_TIME
    assert all(text and text == clean_text(text) or text for text in unique_texts(value))
    assert seconds(value) != seconds(value) or abs(seconds(value)) < 1e12


def test_a_comment_that_never_ends_goes_to_the_end():
    assert clean_text("a <!-- b --> c <!-- d") == "a c"
    assert clean_text("a " + "<!--" * 50_000) == "a"  # at once: a search from each of them would take minutes


def test_a_script_that_never_begins_takes_no_time():
    text = "a " + "<script " * 300_000  # at once: looking for the end from each of them would take many minutes
    assert clean_text(text) == text.strip()
    assert clean_text("a <script type='x'>b</script> c <STYLE>d") == "a c"


def test_days_are_dates_too():
    assert moment(date(1970, 1, 2)) == moment("1970-01-02") == moment(datetime(1970, 1, 2)) == 86_400


@given(st.text(max_size=80) | st.lists(st.text(max_size=20), max_size=4) | st.floats() | st.none() | st.integers())
@settings(max_examples=150, deadline=None)
def test_clean_text_is_one_line_of_plain_text(value):
    text = clean_text(value)
    assert text == text.strip() and not any(c in text for c in "\t\n\r\0\x0b\x85\u2028") and "  " not in text
    text.encode("utf-8")
    price = parse_price(value if not isinstance(value, list) else None)
    assert price is None or np.isfinite(price)


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=80, deadline=None)
def test_template_never_interprets_a_value(title, brand):
    text = Template("[{title}: ][{brand}]").fill({"title": clean_text(title), "brand": clean_text(brand)})
    assert " ".join(text.split()) == text
    if clean_text(title) and not clean_text(brand):
        assert text == f"{clean_text(title)}:"


def test_template_with_unbalanced_brackets_is_an_error():
    with pytest.raises(PRISMError, match="brackets do not pair"):
        Template("{title} [oops")
