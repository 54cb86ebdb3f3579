"""Rows of CSV, TSV and Parquet tables with column names."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.readers import MAX_LINE, BadLines, RawFile, decode


def table_rows(raw: RawFile, bad: BadLines, separator: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, {column: value}) of a CSV, TSV (by suffix or ``separator``) or Parquet file with column names.

    Quoted fields may hold line breaks. Rows with another number of fields are counted and left out.
    """
    suffixes = [suffix.lower() for suffix in raw.path.suffixes]
    if ".parquet" in suffixes:
        yield from _parquet_rows(raw)
        return
    if separator is None:
        separator = "\t" if {".tsv", ".tab", ".inter", ".item"} & set(suffixes) else ","

    def pieces() -> Iterator[str]:
        number = 0
        for lines in raw.blocks():
            for line in lines:
                number += 1
                yield decode(line, raw.path, number, bad).replace("\0", "") + "\n"

    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(pieces(), delimiter=separator)
    header: list[str] | None = None
    number = 0
    try:
        for number, fields in enumerate(reader, 1):
            if not fields:
                continue
            if header is None:
                header = [name.strip() for name in fields]
            elif len(fields) != len(header):
                bad.add(raw.path, number, "another number of fields than the header")
            else:
                yield number, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise PRISMError(f"{raw.path}, near row {number + 1}: {error}") from error
    if header is None:
        raise PRISMError(f"{raw.path}: empty; a first line with column names is needed")
    bad.check(raw.path, max(number - 1, 1))


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
