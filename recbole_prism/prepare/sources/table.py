"""Any shop: interactions and items as CSV, TSV or Parquet, the columns named on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.prepare.clean import clean_text, parse_price
from recbole_prism.prepare.interactions import NOTHING
from recbole_prism.prepare.sources.amazon import urls
from recbole_prism.prepare.sources.base import Item, Row, Source, needed, to_number, to_token, unique_texts
from recbole_prism.prepare.sources.yelp import seconds
from recbole_prism.prepare.tables import table_rows

# our field -> (option, default column)
ITEM_COLUMNS = ("title", "brand", "categories", "price", "description")


class Table(Source):
    help = "any interactions and items as CSV, TSV or Parquet with a line of column names"
    time_unit = "the unit of the raw file (dates: seconds since 1970)"
    default_k_core = 0

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--interactions", required=True, help=".csv, .tsv (plain or .gz) or .parquet")
        parser.add_argument("--items", help="item table; without it there is no text and no image")
        parser.add_argument("--separator", help="default: comma, tab for .tsv; else what shows the named columns")
        parser.add_argument("--user-column", default="user_id")
        parser.add_argument("--item-column", default="item_id")
        parser.add_argument("--rating-column", help="default: none")
        parser.add_argument("--timestamp-column", help="numbers, or ISO dates (default: none)")
        parser.add_argument("--item-id-column", default="item_id", help="of the item table")
        for field in ITEM_COLUMNS:
            parser.add_argument(f"--{field}-column", help=f"of the item table (default: {field}, if there is one)")
        parser.add_argument("--category-separator", default="|", help="between several categories (default: |)")
        parser.add_argument("--image-column", help="web addresses, or paths inside --image-folder")

    @classmethod
    def inputs(cls, options: dict[str, Any]) -> dict[str, Path]:
        found = {"interactions": needed(options, "interactions")}
        if options.get("items"):
            found["items"] = needed(options, "items")
        return found

    def _rows(self, role: str, columns: list[str | None]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows of a table, once the named columns are known to exist."""
        raw = self.open_raw(self.inputs(self.options)[role])
        named = [column for column in columns if column]
        for number, row in table_rows(raw, self.bad, self.options.get("separator"), named):
            for column in named:
                if column not in row:
                    raise PRISMError(
                        f"{raw.path}: no column {column!r}{suggest(column, list(row))}; columns: {list(row)}"
                    )
            named = []
            yield number, row

    def interactions(self) -> Iterator[Row]:
        user_column = self.options.get("user_column") or "user_id"
        item_column = self.options.get("item_column") or "item_id"
        rating, time = self.options.get("rating_column"), self.options.get("timestamp_column")
        path = self.inputs(self.options)["interactions"]
        for number, row in self._rows("interactions", [user_column, item_column, rating, time]):
            user, item = to_token(row[user_column]), to_token(row[item_column])
            if user is None or item is None:
                self.bad.add(path, number, f"no {user_column} or {item_column}")
                continue
            yield user, item, to_number(row[rating]) if rating else NOTHING, moment(row[time]) if time else NOTHING

    def items(self, wanted: Container[str]) -> Iterator[Item]:
        if not self.options.get("items"):
            return
        id_column = self.options.get("item_id_column") or "item_id"
        chosen = {field: self.options.get(f"{field}_column") for field in ITEM_COLUMNS}
        image_column = self.options.get("image_column")
        path = self.inputs(self.options)["items"]
        separator = self.options.get("category_separator") or "|"
        for number, row in self._rows("items", [id_column, image_column, *chosen.values()]):
            item_id = to_token(row[id_column])
            if item_id is None:
                self.bad.add(path, number, f"no {id_column}")
            elif item_id in wanted:
                raw = {field: row.get(column or field) for field, column in chosen.items()}
                categories = raw["categories"]
                if isinstance(categories, str):
                    categories = categories.split(separator)
                yield {
                    "item_id": item_id,
                    **{field: clean_text(raw[field]) for field in ("title", "brand", "description")},
                    "categories": unique_texts(categories),
                    "price": parse_price(raw["price"]),
                    "images": self._images(row.get(image_column)) if image_column else [],
                }

    def _images(self, value: Any) -> list[dict[str, str]]:
        values = value if isinstance(value, list) else [value]
        texts = [text.strip() for text in values if isinstance(text, str) and text.strip()]
        return [({"path": text} if "://" not in text else (urls(text) or [{}])[0]) for text in texts]


def moment(value: Any) -> float:
    """A number as it is; an ISO date as seconds since 1970, with their fraction; else NaN."""
    number = to_number(value)
    return number if number == number else seconds(value)
