"""Amazon reviews by McAuley's group: 2014 (JSON and Python literals), 2018 and 2023 (JSON lines)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Container, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from recbole_prism.prepare.clean import clean_text, parse_price
from recbole_prism.prepare.readers import RawFile, objects, parse_lines, parse_object
from recbole_prism.prepare.sources.base import Item, Row, Source, needed, to_number, to_token, unique_texts

_LEADING_ASIN = re.compile(rb"\{'asin': '([^'\\]*)',")
_EXPECTED = ({str}, {str}, {int, float}, {int})  # types of user, item, rating, time


class Amazon(Source):
    """What the three releases share; each names its fields."""

    user_field, item_field, rating_field, time_field = "reviewerID", "asin", "overall", "unixReviewTime"
    meta_id_field = "asin"
    literal = False

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--reviews", required=True, help="review file, plain or .gz")
        parser.add_argument("--metadata", help="metadata file, plain or .gz; without it there is no text and no image")

    @classmethod
    def inputs(cls, options: dict[str, Any]) -> dict[str, Path]:
        found = {"reviews": needed(options, "reviews")}
        if options.get("metadata"):
            found["metadata"] = needed(options, "metadata")
        return found

    def interaction_blocks(self) -> Iterator[tuple[Sequence[Any], ...]]:
        """Blocks in which every line is as it should be go through compiled code only; the others line by line."""
        raw = self.open_raw(self.inputs(self.options)["reviews"])
        fields = itemgetter(self.user_field, self.item_field, self.rating_field, self.time_field)
        for lines in raw.blocks():
            try:
                block = tuple(zip(*map(fields, map(orjson.loads, lines)), strict=True))
                as_expected = all(
                    set(map(type, column)) <= kinds for column, kinds in zip(block, _EXPECTED, strict=False)
                )
                as_expected &= all(list(map(str.strip, ids)) == list(ids) for ids in block[:2])
            except (ValueError, KeyError, TypeError):
                as_expected = False
            if not as_expected:
                block = tuple(zip(*self._rows(raw, lines), strict=True))
            if block:
                yield block
        self.bad.check(raw.path, raw.n_lines)

    def _rows(self, raw: RawFile, lines: list[bytes]) -> Iterator[Row]:
        for number, row in parse_lines(lines, raw.n_lines, raw.path, self.bad, self.literal):
            user, item = to_token(row.get(self.user_field)), to_token(row.get(self.item_field))
            if user is None or item is None:
                self.bad.add(raw.path, number, f"no usable {self.user_field} or {self.item_field}")
            else:
                yield user, item, to_number(row.get(self.rating_field)), to_number(row.get(self.time_field))

    def items(self, wanted: Container[str]) -> Iterator[Item]:
        files = self.inputs(self.options)
        if "metadata" not in files:
            return
        raw = self.open_raw(files["metadata"])
        rows = self._literal_rows(raw, wanted) if self.literal else objects(raw, self.bad)
        for number, row in rows:
            item_id = to_token(row.get(self.meta_id_field))
            if item_id is None:
                self.bad.add(raw.path, number, f"no usable {self.meta_id_field}")
            elif item_id in wanted:
                yield {"item_id": item_id, **self.describe(row)}

    def _literal_rows(self, raw: Any, wanted: Container[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Python literals are slow to parse: a line that starts with the id of an unwanted item is passed over."""
        number = 0
        for lines in raw.blocks():
            for line in lines:
                number += 1
                leading = _LEADING_ASIN.match(line)
                if leading and leading[1].decode("utf-8", "replace") not in wanted:
                    continue
                if line.strip() and (row := parse_object(line, raw.path, number, self.bad, literal=True)):
                    yield number, row
        self.bad.check(raw.path, number)

    def describe(self, row: dict[str, Any]) -> dict[str, Any]:
        """Our fields of one metadata object."""
        raise NotImplementedError


class Amazon2014(Amazon):
    help = "reviews_*_5.json.gz and meta_*.json.gz of 2014"
    literal = True

    def describe(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "title": clean_text(row.get("title")),
            "brand": clean_text(row.get("brand")),
            "categories": unique_texts(row.get("categories")),
            "price": parse_price(row.get("price")),
            "description": clean_text(row.get("description")),
            "images": urls(row.get("imUrl")),
        }


class Amazon2018(Amazon):
    help = "*_5.json.gz (or the full file) and meta_*.json.gz of 2018"
    fields = ("title", "brand", "categories", "price", "description", "features")

    def describe(self, row: dict[str, Any]) -> dict[str, Any]:
        title = row.get("title")
        if isinstance(title, str) and "getTime" in title:  # a scrap of JavaScript instead of a title
            title = ""
        return {
            "title": clean_text(title),
            "brand": clean_text(row.get("brand")),
            "categories": unique_texts(row.get("category")),
            "price": parse_price(row.get("price")),
            "description": clean_text(row.get("description")),
            "features": clean_text(row.get("feature")),
            "images": urls(row.get("imageURLHighRes")) or urls(row.get("imageURL")),
        }


class Amazon2023(Amazon):
    help = "CATEGORY.jsonl.gz and meta_CATEGORY.jsonl.gz of 2023; items are products (parent_asin)"
    user_field, item_field, rating_field, time_field = "user_id", "parent_asin", "rating", "timestamp"
    meta_id_field = "parent_asin"
    fields = ("title", "brand", "categories", "price", "description", "features")
    time_unit = "milliseconds since 1970"

    def describe(self, row: dict[str, Any]) -> dict[str, Any]:
        details = row.get("details")
        brand = details.get("Brand") if isinstance(details, dict) else None
        return {
            "title": clean_text(row.get("title")),
            "brand": clean_text(brand) or clean_text(row.get("store")),
            "categories": unique_texts(row.get("categories")) or unique_texts(row.get("main_category")),
            "price": parse_price(row.get("price")),
            "description": clean_text(row.get("description")),
            "features": clean_text(row.get("features")),
            "images": self._images(row.get("images")),
        }

    def _images(self, value: Any) -> list[dict[str, str]]:
        """Pictures as a list of objects, or an object of lists; the main one first; 500 pixels before larger ones."""
        if isinstance(value, dict):
            columns = {key: column for key, column in value.items() if isinstance(column, list)}
            length = max(map(len, columns.values()), default=0)
            value = [{key: column[n] for key, column in columns.items() if n < len(column)} for n in range(length)]
        pictures = [picture for picture in value if isinstance(picture, dict)] if isinstance(value, list) else []
        pictures.sort(key=lambda picture: picture.get("variant") != "MAIN")
        found = (urls([picture.get(size) for size in ("large", "hi_res", "thumb")])[:1] for picture in pictures)
        return [url for first in found for url in first]


def urls(value: Any) -> list[dict[str, str]]:
    """Web addresses of a string or list, each once; anything else is left out."""
    values = value if isinstance(value, list) else [value]
    addresses = (url.strip() for url in values if isinstance(url, str))
    return [{"url": url} for url in dict.fromkeys(addresses) if url.lower().startswith(("http://", "https://"))]
