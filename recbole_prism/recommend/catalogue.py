"""Item tokens, RecBole's internal ids and titles: what a recommendation is made of, and looking it up."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_prism.errors import PRISMError, suggest

TITLE_FIELDS = ("title", "name")  # a column is a title if it is called so, or ends so (movie_title, product_name)


@dataclass
class Catalogue:
    """``tokens[i]`` is the token of RecBole's item id i; ``tokens[0]`` is padding and no item."""

    tokens: list[str]
    titles: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id_of = {token: n for n, token in enumerate(self.tokens) if n > 0}

    def __len__(self) -> int:
        return len(self.tokens) - 1

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """Internal ids in the order of the tokens. Raises PRISMError naming the first unknown one and its nearest."""
        return look_up_all(self.id_of, tokens, "item")

    def title(self, token: str) -> str:
        """Title of an item, or an empty string."""
        return self.titles.get(token, "")


def look_up_all(id_of: dict[str, int], tokens: Iterable[str], noun: str) -> list[int]:
    """Ids in the order of the tokens. Raises PRISMError for text, which is a sequence too, of characters."""
    if isinstance(tokens, str):
        raise PRISMError(f"{noun}s: {tokens!r} is one text; name them as a list, [{tokens!r}]")
    return [look_up(id_of, str(token), noun) for token in tokens]


def look_up(id_of: dict[str, int], token: str, noun: str) -> int:
    """``id_of[token]``. Raises PRISMError with the nearest names."""
    if token not in id_of:
        raise PRISMError(f"{noun} {token!r} is unknown{suggest(token, id_of)}; there are {len(id_of)} {noun}s")
    return id_of[token]


def read_titles(
    path: Path,
    item_field: str,
    *,
    separator: str = "\t",
    encoding: str | None = None,
    title_field: str | None = None,
) -> dict[str, str]:
    """Item token -> title out of an atomic ``.item`` file; empty if there is none, or no title column in it.

    Quotes are read as by pandas, and so by RecBole; a character that is not of that encoding becomes a replacement.

    Raises PRISMError if ``title_field`` is named and not there.
    """
    if not path.is_file():
        if title_field:
            raise PRISMError(f"{path}: no such file, so no titles from its field {title_field!r}")
        return {}
    encoding = encoding or "utf-8"  # RecBole's default
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding  # with or without a byte order mark
    with open(path, encoding=encoding, errors="replace", newline="") as file:
        csv.field_size_limit(2**31 - 1)
        rows = csv.reader(file, delimiter=separator) if len(separator) == 1 else _split(file, separator)
        names = [name.split(":")[0] for name in next(rows, [])]
        if title_field and title_field not in names:
            raise PRISMError(f"{path}: no field {title_field!r}{suggest(title_field, names)}; there are {names}")
        column = names.index(title_field) if title_field else _title_column(names)
        if column is None or item_field not in names:
            return {}
        token = names.index(item_field)
        return {row[token]: row[column] for row in rows if len(row) > max(token, column)}


def _split(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """Fields with a separator of several characters, a regular expression as for pandas."""
    return (re.split(separator, line.rstrip("\r\n")) for line in lines)


def _title_column(names: list[str]) -> int | None:
    for wanted in TITLE_FIELDS:
        for matches in (str.__eq__, str.endswith):
            for n, name in enumerate(names):
                if matches(name.lower(), wanted):
                    return n
    return None


@dataclass
class Histories:
    """Every user's items in order of time, and how many of them RecBole's protocol lets the model see.

    ``items[offsets[u] : offsets[u + 1]]`` belongs to user id u (0 is padding); ``valid`` and ``test`` [users] count the
    items before the first one that the validation or test part asks for, -1 where that part does not ask.
    """

    tokens: list[str]
    offsets: np.ndarray
    items: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    def __post_init__(self) -> None:
        self.id_of = {token: n for n, token in enumerate(self.tokens) if n > 0}

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """Internal user ids. Raises PRISMError naming the first unknown one and its nearest."""
        return look_up_all(self.id_of, tokens, "user")

    def has(self, user: int, part: str) -> bool:
        """Whether ``history`` of that part has an item."""
        return len(self.history(user, part)) > 0

    def history(self, user: int, part: str = "full") -> np.ndarray:
        """Items of one user, oldest first; ``part`` is full, valid or test. Empty where the part has none."""
        first, last = self.offsets[user], self.offsets[user + 1]
        if part != "full":
            last = first + max(int(getattr(self, part)[user]), 0)
        return self.items[first:last]
