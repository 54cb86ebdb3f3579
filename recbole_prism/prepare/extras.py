"""What may be added to any source's items: columns of a table by item id, pictures of a folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.clean import clean_text, parse_price
from recbole_prism.prepare.files import describe_file, identity
from recbole_prism.prepare.readers import BadLines, RawFile
from recbole_prism.prepare.sources import Source
from recbole_prism.prepare.sources.amazon import urls
from recbole_prism.prepare.sources.base import to_token
from recbole_prism.prepare.tables import table_rows

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_TEXT = 20_000  # characters of one field; no encoder reads further


class Extras:
    """``--extra TABLE`` and ``--image-folder FOLDER``. The table's texts are held in memory, for wanted items only.

    Raises:
        PRISMError: a path does not exist, or the table has no ``item_id`` column.
    """

    def __init__(self, options: dict[str, Any], kind: type[Source]):
        self.limit = int(options["images_per_item"])
        if self.limit < 0:
            raise PRISMError(f"--images-per-item {self.limit}: 0 or more")
        self.counts = {"image_files_missing": 0, "images_refused": 0}
        self.table = Path(options["extra"]) if options["extra"] else None
        self.bad = BadLines(options["max_bad_lines"])
        self.fields: set[str] = set()
        if self.table is not None:
            header = next(table_rows(RawFile(self.table), BadLines(), None, ["item_id"]), (0, {}))[1]
            if "item_id" not in header:
                raise PRISMError(f"--extra {self.table}: a column item_id is needed; columns: {list(header)}")
            self.fields = {column for column in header if column not in ("item_id", "image_url")}
        self.root: Path | None = None
        self.by_stem: dict[str, str] | None = None
        if options["image_folder"]:
            self.root = Path(options["image_folder"])
            if not self.root.is_dir():
                raise PRISMError(f"--image-folder {self.root}: no such folder")
            if not options.get("image_column"):
                files = sorted(path.name for path in self.root.iterdir() if path.suffix.lower() in PICTURES)
                self.by_stem = {PurePosixPath(name).stem: name for name in reversed(files)}
        elif hasattr(kind, "image_root") and "photos" in kind.inputs(options):
            self.root = kind.image_root(options)

    def inputs(self) -> dict[str, dict[str, Any]]:
        return {} if self.table is None else {"extra": describe_file(self.table)}

    def identity(self) -> list[Any]:
        """What tells that the table has changed, or which files the folder of pictures holds, however deep."""
        names: list[str] = []
        if self.root is not None:
            for folder, _, files in os.walk(self.root):
                names += (os.path.join(folder, name) for name in files)
        return [self.table and identity(self.table), self.root and os.path.abspath(self.root), sorted(names)]

    def complete(self, items: Iterable[dict[str, Any]], wanted: Collection[str]) -> Iterator[dict[str, Any]]:
        """The items with their further fields and checked images; items only known here come last."""
        extra = dict(self._rows(wanted))
        seen = set()
        for item in items:
            seen.add(item["item_id"])
            yield self._complete(item, extra.get(item["item_id"], {}))
        for item_id in wanted:
            if item_id not in seen and (item_id in extra or item_id in (self.by_stem or {})):
                yield self._complete({"item_id": item_id, "images": []}, extra.get(item_id, {}))

    def _rows(self, wanted: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.table is None:
            return
        seen = set()
        for _, row in table_rows(RawFile(self.table), self.bad, None, ["item_id"]):
            item_id = to_token(row["item_id"])
            if item_id is not None and item_id in wanted and item_id not in seen:
                seen.add(item_id)
                yield item_id, row

    def _complete(self, item: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        for field in self.fields:
            text = clean_text(extra.get(field))
            if text and not item.get(field):
                item[field] = [text] if field == "categories" else parse_price(text) if field == "price" else text
        for field, value in item.items():
            if isinstance(value, str) and field != "item_id":
                item[field] = value[:MAX_TEXT]
        images = list(item.get("images") or []) + urls(extra.get("image_url"))
        if self.by_stem is not None and item["item_id"] in self.by_stem:
            images.insert(0, {"path": self.by_stem[item["item_id"]]})
        item["images"] = list(self._checked(images))
        return item

    def _checked(self, images: list[dict[str, str]]) -> Iterator[dict[str, str]]:
        """At most ``limit`` images: web addresses, and files that exist inside the image folder."""
        taken = 0
        for image in images:
            if taken == self.limit:
                return
            if "path" in image:
                if self.root is None or inside(self.root, image["path"]) is None:
                    self.counts["images_refused"] += 1
                    continue
                if not (self.root / image["path"]).is_file():
                    self.counts["image_files_missing"] += 1
                    continue
            elif "url" not in image:
                self.counts["images_refused"] += 1
                continue
            taken += 1
            yield image


def inside(root: Path, name: str) -> Path | None:
    """``root/name`` if that is a path below ``root``, links followed; else None."""
    if not name or "\0" in name or Path(name).is_absolute():
        return None
    base = root.resolve()
    try:
        path = (base / name).resolve()
    except (OSError, RuntimeError, ValueError):
        return None
    return path if path != base and base in path.parents else None
