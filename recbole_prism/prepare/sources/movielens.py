"""MovieLens 100k, 1m, 10m and latest (small or full), told apart by their file names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.clean import clean_text
from recbole_prism.prepare.readers import RawFile, text_lines
from recbole_prism.prepare.sources.base import Item, Row, Source, find_file, to_number, to_token
from recbole_prism.prepare.tables import table_rows

# release -> (ratings file, movies file)
RELEASES = {
    "100k": ("u.data", "u.item"),
    "1m": ("ratings.dat", "movies.dat"),  # and 10m
    "latest": ("ratings.csv", "movies.csv"),
}
# The order of the nineteen 0/1 columns of u.item.
GENRES_100K = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")
# An article at the very end, or before the first parenthesis: of `Good bye, Lenin!` there is none.
_ARTICLE = re.compile(r"([^()]+), (The|A|An|Les?|La|Il|Der|Die|Das|El)((?: \(.*\))?)")


class MovieLens(Source):
    help = "the unpacked folder of MovieLens 100k, 1m, 10m or latest; posters by --image-folder, plots by --extra"
    fields = ("title", "categories", "year")
    template = "[{title}. ][{categories}. ]"
    default_k_core = 0

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--folder", required=True, help="folder with u.data, ratings.dat or ratings.csv")

    @classmethod
    def release(cls, options: dict[str, Any]) -> str:
        if not options.get("folder"):
            raise PRISMError("--folder is needed")
        folder = Path(options["folder"])
        for name, (ratings, _) in RELEASES.items():
            if (folder / ratings).is_file() or (folder / f"{ratings}.gz").is_file():
                return name
        raise PRISMError(f"{folder}: no MovieLens ratings; one of {[r for r, _ in RELEASES.values()]} is looked for")

    @classmethod
    def inputs(cls, options: dict[str, Any]) -> dict[str, Path]:
        ratings, movies = RELEASES[cls.release(options)]
        folder = Path(options["folder"])
        return {
            "ratings": find_file(folder, (ratings,), "ratings file"),
            "movies": find_file(folder, (movies,), "movies file"),
        }

    def _fields(self, raw: RawFile, separator: str, at_least: int) -> Iterator[tuple[int, list[str]]]:
        """Split lines of the two old releases, which quote nothing."""
        number = 0
        for number, line in text_lines(raw, self.bad, "utf-8" if separator == "\t" else "latin-1"):
            fields = _as_utf8(line).split(separator)
            if len(fields) < at_least:
                self.bad.add(raw.path, number, f"fewer than {at_least} fields")
            else:
                yield number, fields
        self.bad.check(raw.path, number)

    def interactions(self) -> Iterator[Row]:
        release = self.release(self.options)
        raw = self.open_raw(self.inputs(self.options)["ratings"])
        if release == "latest":
            rows = (
                (number, [row.get(name) for name in ("userId", "movieId", "rating", "timestamp")])
                for number, row in table_rows(raw, self.bad, ",")
            )
        else:
            rows = self._fields(raw, "\t" if release == "100k" else "::", 4)
        for number, row in rows:
            user, item = to_token(row[0]), to_token(row[1])
            if user is None or item is None:
                self.bad.add(raw.path, number, "no user or movie id")
            else:
                yield user, item, to_number(row[2]), to_number(row[3])

    def items(self, wanted: Container[str]) -> Iterator[Item]:
        release = self.release(self.options)
        raw = self.open_raw(self.inputs(self.options)["movies"])
        if release == "latest":
            rows = (
                (row.get("movieId"), row.get("title"), (row.get("genres") or "").split("|"))
                for _, row in table_rows(raw, self.bad, ",")
            )
        elif release == "1m":
            rows = ((row[0], row[1], row[2].split("|")) for _, row in self._fields(raw, "::", 3))
        else:
            rows = (
                (row[0], row[1], [genre for genre, flag in zip(GENRES_100K, row[5:24], strict=True) if flag == "1"])
                for _, row in self._fields(raw, "|", 24)
            )
        for movie, title, genres in rows:
            item_id = to_token(movie)
            if item_id in wanted:
                title = clean_text(title)
                year = re.search(r"\((\d{4})\)\s*$", title)
                yield {
                    "item_id": item_id,
                    "title": _article_first(title),
                    "categories": [text for text in map(clean_text, genres) if text and text[0] != "("],
                    "year": year[1] if year else "",
                    "images": [],
                }


def _article_first(title: str) -> str:
    """``Postino, Il (1994)`` -> ``Il Postino (1994)``; what stands in parentheses stays as it is."""
    match = _ARTICLE.fullmatch(title)
    return f"{match[2]} {match[1]}{match[3]}" if match else title


def _as_utf8(line: str) -> str:
    """A line read as latin-1, as UTF-8 if it is that: 10m has the names of 1m, but is UTF-8."""
    if line.isascii():
        return line
    try:
        return line.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return line
