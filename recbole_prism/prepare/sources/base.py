"""What a raw data set has to offer, and the small conversions that all of them need."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.clean import DEFAULT_TEMPLATE, clean_text
from recbole_prism.prepare.interactions import MAX_TIME, NOTHING
from recbole_prism.prepare.readers import BadLines, RawFile

Row = tuple[str, str, float, float]
Item = dict[str, Any]


class Source:
    """One kind of raw data. A subclass gives ``interactions`` or, where lines are many, ``interaction_blocks``.

    ``interactions`` yields (user, item, rating, time) in the file's order, NaN for what is missing. ``items`` yields
    dictionaries with ``item_id``, any of ``fields``, ``images`` (a list of {"url": ...} or {"path": ...}) for the
    wanted ids; ``categories`` is a list of strings, ``price`` a number or None, everything else is cleaned text.
    """

    help = ""
    fields: tuple[str, ...] = ("title", "brand", "categories", "price", "description")
    template = DEFAULT_TEMPLATE
    time_unit = "seconds since 1970"
    default_k_core = 5

    def __init__(self, options: dict[str, Any], open_raw: Callable[[Path], RawFile], bad: BadLines):
        self.options = options
        self.open_raw = open_raw
        self.bad = bad

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        raise NotImplementedError

    @classmethod
    def inputs(cls, options: dict[str, Any]) -> dict[str, Path]:
        """Role -> file, for the report and for noticing a change; raises PRISMError for what is missing."""
        raise NotImplementedError

    def interactions(self) -> Iterator[Row]:
        raise NotImplementedError

    def interaction_blocks(self) -> Iterator[tuple[Sequence[Any], ...]]:
        """The same as blocks of four columns, which are quicker to gather; a source of many lines makes its own."""
        rows = self.interactions()
        while block := list(islice(rows, 1 << 14)):
            yield tuple(zip(*block, strict=True))

    def items(self, wanted: Container[str]) -> Iterator[Item]:
        raise NotImplementedError


def to_token(value: Any) -> str | None:
    """An id as text: strings stripped, whole numbers in digits, else None."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**30 else None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return None


def to_number(value: Any) -> float:
    """A finite number, also out of text; NaN for everything else."""
    if isinstance(value, bool) or value is None:
        return NOTHING
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return NOTHING
    return number if math.isfinite(number) and abs(number) <= MAX_TIME else NOTHING


def unique_texts(values: Any) -> list[str]:
    """Cleaned strings of a nested list or one string, each once, in order."""
    found: dict[str, None] = {}

    def walk(value: Any, depth: int) -> None:
        if isinstance(value, (list, tuple)):
            if depth < 8:
                for element in value:
                    walk(element, depth + 1)
        elif text := clean_text(value):
            found[text] = None

    walk(values, 0)
    return list(found)


def needed(options: dict[str, Any], key: str) -> Path:
    """The file given by an option; raises PRISMError without it."""
    if not options.get(key):
        raise PRISMError(f"--{key.replace('_', '-')} is needed")
    path = Path(options[key])
    if not path.is_file():
        raise PRISMError(f"--{key.replace('_', '-')} {path}: no such file")
    return path


def find_file(folder: Path, names: tuple[str, ...], what: str) -> Path:
    """The first of these names that exists in the folder, plain or ``.gz``; raises PRISMError listing them."""
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise PRISMError(f"{folder}: no {what}; one of {list(names)} (or with .gz) is looked for")
