"""Writing RecBole's atomic files, texts, image addresses and the dataset yaml; each whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from recbole_prism.prepare.clean import Template
from recbole_prism.prepare.files import DatasetFolder, atomic_write
from recbole_prism.prepare.interactions import Interactions

_ROWS = 1 << 16
ITEM_FIELDS = {"title": "token_seq", "brand": "token", "categories": "token_seq", "price": "float"}

_YAML = """\
# {name}: made by `recbole-prism prepare {source}`; {name}.report.json says how.
field_separator: "\\t"           # (str) Separator of different columns in atomic files.
seq_separator: " "              # (str) Separator inside the sequence features.
USER_ID_FIELD: user_id          # (str) Field name of user ID feature.
ITEM_ID_FIELD: item_id          # (str) Field name of item ID feature.
{rating}TIME_FIELD: timestamp           # (str) Field name of timestamp feature, in {unit}.
load_col:                       # (dict) The .item file is for people and `inspect`; sequential models need only this.
    inter: [{columns}]
"""


def quoted(text: str) -> str:
    """A field as RecBole's reader (csv rules) takes it back unchanged; control characters must be gone already."""
    return '"' + text.replace('"', '""') + '"' if '"' in text else text


def _as_text(values: np.ndarray) -> list[str]:
    """Shortest decimals; '' for NaN."""
    if np.isfinite(values).all() and (values == np.floor(values)).all():
        return list(map(str, values.astype(np.int64).tolist()))
    distinct, codes = np.unique(values, return_inverse=True)
    names = ["" if v != v else str(int(v)) if v.is_integer() else repr(v) for v in distinct.tolist()]
    return np.array(names, dtype=object)[codes.reshape(-1)].tolist()


def write_inter(folder: DatasetFolder, data: Interactions) -> list[str]:
    """``NAME.inter`` in the given order; returns the column names. Ratings are left out if no row has one."""
    users = [quoted(token) for token in data.user_ids]
    items = [quoted(token) for token in data.item_ids]
    rated = bool(len(data)) and not np.isnan(data.ratings).all()
    columns = ["user_id:token", "item_id:token", *(["rating:float"] if rated else []), "timestamp:float"]
    with atomic_write(folder.file("inter")) as stream:
        stream.write("\t".join(columns) + "\n")
        for start in range(0, len(data), _ROWS):
            rows = slice(start, start + _ROWS)
            user_names = [users[code] for code in data.users[rows].tolist()]
            item_names = [items[code] for code in data.items[rows].tolist()]
            times = _as_text(data.times[rows])
            if rated:
                lines = zip(user_names, item_names, _as_text(data.ratings[rows]), times, strict=True)
            else:
                lines = zip(user_names, item_names, times, strict=True)
            stream.write("\n".join(map("\t".join, lines)) + "\n")
    return [column.split(":")[0] for column in columns]


def write_items(
    folder: DatasetFolder,
    item_ids: list[str],
    items: Iterable[dict[str, Any]],
    fields: tuple[str, ...],
    template: Template,
) -> dict[str, int]:
    """``NAME.item``, ``NAME.texts.jsonl`` and ``NAME.images.jsonl``, in the order of ``items`` (the metadata file's).

    The first description of an item counts. Items without any come last in ``NAME.item``, with their id alone.
    Returns counts.
    """
    counts = dict.fromkeys(("with_metadata", "repeated_metadata", "with_text", "with_image", "images"), 0)
    columns = [field for field in ITEM_FIELDS if field in fields]
    missing = dict.fromkeys(item_ids)
    with contextlib.ExitStack() as stack:
        item_file, texts, images = (
            stack.enter_context(atomic_write(folder.file(suffix))) for suffix in ("item", "texts.jsonl", "images.jsonl")
        )
        header = ["item_id:token", *(f"{column}:{ITEM_FIELDS[column]}" for column in columns)]
        item_file.write("\t".join(header) + "\n")
        for item in items:
            item_id = item["item_id"]
            if item_id not in missing:
                counts["repeated_metadata"] += 1
                continue
            del missing[item_id]
            counts["with_metadata"] += 1
            item_file.write("\t".join([quoted(item_id), *(_field(item, column) for column in columns)]) + "\n")
            if text := template.fill(_template_values(item)):
                counts["with_text"] += 1
                texts.write(json.dumps({"item_id": item_id, "text": text}, ensure_ascii=False) + "\n")
            counts["with_image"] += bool(item["images"])
            for image in item["images"]:
                counts["images"] += 1
                images.write(json.dumps({"item_id": item_id, **image}, ensure_ascii=False) + "\n")
        for item_id in missing:
            item_file.write(quoted(item_id) + "\t" * len(columns) + "\n")
    counts["without_metadata"] = len(missing)
    return counts


def _field(item: dict[str, Any], column: str) -> str:
    value = item.get(column)
    if column == "price":
        return "" if value is None else repr(float(value))
    if column == "categories":  # RecBole splits at spaces: one category, one word
        return quoted(" ".join("_".join(category.split()) for category in value or []))
    return quoted(value or "")


def _template_values(item: dict[str, Any]) -> dict[str, str]:
    values = {key: value for key, value in item.items() if isinstance(value, str)}
    values["categories"] = ", ".join(item.get("categories") or [])
    price = item.get("price")
    values["price"] = "" if price is None else f"{price:g}"
    return values


def write_yaml(folder: DatasetFolder, source: str, columns: list[str], unit: str, counts: dict[str, int]) -> None:
    """``NAME.yaml``: what RecBole must know to load the atomic files; of two modalities the only one that is there."""
    rating = "RATING_FIELD: rating            # (str) Field name of rating feature.\n" if "rating" in columns else ""
    text = _YAML.format(name=folder.name, source=source, rating=rating, unit=unit, columns=", ".join(columns))
    modalities = [m for m in ("image", "text") if counts[f"with_{m}"]]
    if len(modalities) == 1:
        text += f"modalities: {modalities}            # (list) The only one that the raw files have.\n".replace("'", "")
    with atomic_write(folder.file("yaml")) as stream:
        stream.write(text)
