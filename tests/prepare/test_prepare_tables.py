"""Tables as people have them: quotes that mean inches, separators that differ."""

from __future__ import annotations

import pytest

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.readers import BadLines, RawFile
from recbole_prism.prepare.tables import table_rows


@pytest.fixture
def read(tmp_path):
    """read(text) -> values of a TSV's rows, counts of its bad lines."""

    def values(text):
        path = tmp_path / "t.tsv"
        path.write_text(text, encoding="utf-8")
        bad = BadLines(tolerated=1)
        return [list(row.values()) for _, row in table_rows(RawFile(path), bad)], bad.summary()

    return values


@pytest.mark.parametrize(
    "title",
    ['"Unbalanced film', '"', 'Vinyl 12"', '"Crocodile" Dundee', '"Hello," says she', '"A" and "B"', '""" three'],
)
def test_a_quote_swallows_no_other_line(read, title):
    lines = [["item_id", "title"], ["a", title], ["b", "plain"], ["c", title], ["d", 'x "y"'], ["e", 'last"']]
    rows, _ = read("\n".join(map("\t".join, lines)) + "\n")
    assert rows == lines[1:]


def test_a_quote_that_is_not_closed_is_reported(read):
    bad = read('item_id\ttitle\na\tA\nb\t"B\nc\tC\n')[1]
    assert [(row["reason"], row["first_lines"]) for row in bad] == [
        ("a quote that is not closed, read as it is (kept)", [3])
    ]


def test_quoted_fields_of_a_tsv_may_hold_tabs_or_line_breaks(read):
    rows, bad = read('a\tb\r\n"x\ty"\t"two\r\n\r\n""lines"""\r\n"1\n2"\t"3\n4"\n\n"5"\t6\n')
    assert rows == [["x\ty", 'two\n\n"lines"'], ["1\n2", "3\n4"], ["5", "6"]] and bad == []


def test_a_quote_opened_again_at_the_end_gives_every_line_back(read):
    rows, _ = read('a\tb\n1\t"x\ny"\t"z\n2\tw\n')
    assert rows == [["1", '"x'], ['y"', '"z'], ["2", "w"]]


def test_tables_may_have_separators_of_their_own(make, tmp_path):
    (tmp_path / "orders.csv").write_text("who;what;when\nu;a;1\nu;b;2\n")
    (tmp_path / "shop.csv").write_text("sku,name;s\na,One\nb,Two\n")
    (tmp_path / "more.csv").write_text("item_id\tplot\na\tIt begins.\n")
    options = {"user_column": "who", "item_column": "what", "timestamp_column": "when", "item_id_column": "sku"}
    for separator in (None, ";"):
        made = make(
            "table",
            interactions=tmp_path / "orders.csv",
            items=tmp_path / "shop.csv",
            title_column="name;s",
            separator=separator,
            extra=tmp_path / "more.csv",
            template="{title}[: {plot}]",
            force=True,
            **options,
        )
        assert made.history("u") == ["a", "b"] and made.texts == {"a": "One: It begins.", "b": "Two"}
    with pytest.raises(PRISMError, match=r"orders.csv: no column 'whose'.*columns: \['who', 'what', 'when'\]"):
        make("table", name="other", interactions=tmp_path / "orders.csv", **(options | {"user_column": "whose"}))


def test_a_column_that_is_read_may_not_be_there_twice(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("item,user,note,note,item\na,b,c,d,e\n")
    rows = table_rows(RawFile(path), BadLines(tolerated=1), expected=["user"])
    assert [row["user"] for _, row in rows] == ["b"]
    with pytest.raises(PRISMError, match=r"t\.csv: several columns are named 'item'; rename all but one"):
        list(table_rows(RawFile(path), BadLines(tolerated=1), expected=["user", "item"]))
