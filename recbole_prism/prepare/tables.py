"""Rows of CSV, TSV and Parquet tables with column names."""

from __future__ import annotations

import csv
import itertools
import re
from collections import deque
from collections.abc import Collection, Iterator
from typing import Any

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.readers import MAX_LINE, BadLines, RawFile, decode

_SEPARATORS = ",;\t|"
_INSIDE = r'([^"]*(?:""[^"]*)*)'  # quotes, doubled quotes in them
_TAB_FIELD = re.compile(rf'"{_INSIDE}"(?=\t|\Z)|([^\t]*)')
_TAB_OPEN, _TAB_GOES_ON, _TAB_CLOSED = (re.compile(p) for p in (f'"{_INSIDE}', _INSIDE, rf'{_INSIDE}"(?=\t|\Z)'))


def table_rows(
    raw: RawFile, bad: BadLines, separator: str | None = None, expected: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, {column: value}) of a CSV, TSV (by suffix or ``separator``) or Parquet file with column names.

    The separator is the one by which most of the ``expected`` columns are in the first line. Quoted
    fields may hold line breaks. Rows with another number of fields are counted and left out.
    """
    suffixes = [suffix.lower() for suffix in raw.path.suffixes]
    if ".parquet" in suffixes:
        yield from _parquet_rows(raw)
        return
    if separator is None:
        separator = "\t" if {".tsv", ".tab", ".inter", ".item"} & set(suffixes) else ","
    csv.field_size_limit(MAX_LINE)
    lines = _lines(raw, bad)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise PRISMError(f"{raw.path}: empty; a first line with column names is needed")
    if expected:
        separator = max((separator, *_SEPARATORS), key=lambda each: len(set(expected) & set(_names(first, each))))
    lines = itertools.chain([first], lines)
    if separator == "\t":
        rows = _tab_rows(lines, raw, bad)
    else:
        rows = enumerate(csv.reader((line + "\n" for line in lines), delimiter=separator), 1)
    header: list[str] | None = None
    number = 0
    try:
        for number, fields in rows:
            if not fields:
                continue
            if header is None:
                header = [name.strip() for name in fields]
                if twice := [name for name in dict.fromkeys(expected) if header.count(name) > 1]:
                    raise PRISMError(f"{raw.path}: several columns are named {twice[0]!r}; rename all but one")
            elif len(fields) != len(header):
                bad.add(raw.path, number, "another number of fields than the header")
            else:
                yield number, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise PRISMError(f"{raw.path}, near row {number + 1}: {error}") from error
    bad.check(raw.path, max(number - 1, 1))


def _lines(raw: RawFile, bad: BadLines) -> Iterator[str]:
    number = 0
    for lines in raw.blocks():
        for line in lines:
            number += 1
            yield decode(line, raw.path, number, bad).replace("\0", "")


def _names(line: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]


def _tab_rows(lines: Iterator[str], raw: RawFile, bad: BadLines) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of a TSV, quoted or not: a quote that does not open and close a field is a character.

    A quoted field may hold tabs or line breaks, not both: an inch sign would swallow the lines to the next one.
    """
    waiting: deque[str] = deque()

    def following() -> str | None:
        line = waiting.popleft() if waiting else next(lines, None)
        return line and line.removesuffix("\r")

    number = 0
    while (line := following()) is not None:
        number += 1
        if '"' not in line:
            yield number, line.split("\t") if line else []
            continue
        fields, is_open = _tab_fields(line)
        taken: list[str] = []
        while is_open and (more := following()) is not None:
            taken.append(more)
            closed = _TAB_CLOSED.match(more)
            if closed and "\t" not in closed[1]:
                fields, is_open = _tab_fields("\n".join([line, *taken]))
            elif "\t" in more or not _TAB_GOES_ON.fullmatch(more):
                break
        if is_open:
            bad.add(raw.path, number, "a quote that is not closed, read as it is (kept)")
            waiting.extendleft(reversed(taken))
            taken = []
            fields, _ = _tab_fields(line)
        yield number, fields
        number += len(taken)


def _tab_fields(text: str) -> tuple[list[str], bool]:
    """The fields, and whether the last one begins with a quote that is not closed."""
    fields, place = [], 0
    while place <= len(text):
        match = _TAB_FIELD.match(text, place)
        fields.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        place = match.end() + 1
    return fields, match[1] is None and _TAB_OPEN.fullmatch(fields[-1]) is not None


def _parquet_rows(raw: RawFile) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(raw.path).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        raise PRISMError(f"{raw.path}: not readable as Parquet ({error})") from error
    raw.pass_over()
