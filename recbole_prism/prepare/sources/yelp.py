"""The Yelp academic dataset: reviews, businesses, photos."""

from __future__ import annotations

import argparse
import re
from collections.abc import Container, Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.clean import clean_text
from recbole_prism.prepare.interactions import NOTHING
from recbole_prism.prepare.readers import objects
from recbole_prism.prepare.sources.base import Item, Row, Source, find_file, to_number, to_token

_PHOTO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Yelp(Source):
    help = "the unpacked folder of the Yelp dataset, photos included"
    fields = ("title", "categories", "city", "state", "address")
    template = "[{title}. ][{categories}. ][{city}, ][{state}]"

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--folder", required=True, help="folder with yelp_academic_dataset_review.json and others")
        parser.add_argument("--photos", help="folder with photos.json and photos/ (default: the same folder)")

    @classmethod
    def inputs(cls, options: dict[str, Any]) -> dict[str, Path]:
        if not options.get("folder"):
            raise PRISMError("--folder is needed")
        folder = Path(options["folder"])
        found = {
            role: find_file(folder, (f"yelp_academic_dataset_{role}.json", f"{role}.json"), f"{role} file")
            for role in ("review", "business")
        }
        photos = Path(options.get("photos") or folder)
        names = ("photos.json", "yelp_academic_dataset_photo.json", "photo.json")
        if options.get("photos") or any((photos / name).is_file() for name in names):
            found["photos"] = find_file(photos, names, "photos file")
        return found

    @classmethod
    def image_root(cls, options: dict[str, Any]) -> Path:
        """Where the picture files lie: ``photos/`` beside photos.json, or that folder itself."""
        beside = cls.inputs(options)["photos"].parent
        return beside / "photos" if (beside / "photos").is_dir() else beside

    def interactions(self) -> Iterator[Row]:
        raw = self.open_raw(self.inputs(self.options)["review"])
        for number, row in objects(raw, self.bad):
            user, item = to_token(row.get("user_id")), to_token(row.get("business_id"))
            if user is None or item is None:
                self.bad.add(raw.path, number, "no usable user_id or business_id")
                continue
            yield user, item, to_number(row.get("stars")), seconds(row.get("date"))

    def items(self, wanted: Container[str]) -> Iterator[Item]:
        files = self.inputs(self.options)
        photos = self._photos(wanted) if "photos" in files else {}
        raw = self.open_raw(files["business"])
        for number, row in objects(raw, self.bad):
            item_id = to_token(row.get("business_id"))
            if item_id is None:
                self.bad.add(raw.path, number, "no usable business_id")
            elif item_id in wanted:
                categories = row.get("categories")
                if isinstance(categories, str):
                    categories = categories.split(",")
                yield {
                    "item_id": item_id,
                    "title": clean_text(row.get("name")),
                    "categories": [text for text in map(clean_text, categories or []) if text],
                    **{field: clean_text(row.get(field)) for field in ("city", "state", "address")},
                    "images": [{"path": name} for name in photos.get(item_id, [])],
                }

    def _photos(self, wanted: Container[str]) -> dict[str, list[str]]:
        """File names by business; an id that is no plain Yelp id never becomes one."""
        raw = self.open_raw(self.inputs(self.options)["photos"])
        photos: dict[str, list[str]] = {}
        for number, row in objects(raw, self.bad):
            item_id, photo = to_token(row.get("business_id")), row.get("photo_id")
            if not isinstance(photo, str) or not _PHOTO_ID.fullmatch(photo):
                self.bad.add(raw.path, number, "no usable photo_id")
            elif item_id in wanted:
                photos.setdefault(item_id, []).append(f"{photo}.jpg")
        return photos


def seconds(value: Any) -> float:
    """``2018-07-07 22:09:11`` or any ISO date (UTC unless it says otherwise) -> seconds since 1970; else NaN."""
    if isinstance(value, date) and not isinstance(value, datetime):  # a column of days
        value = value.isoformat()
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
        except ValueError:
            return NOTHING
    elif isinstance(value, datetime):
        moment = value
    else:
        return NOTHING
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    try:
        return moment.timestamp()
    except (OverflowError, ValueError):
        return NOTHING
