"""``inspect``: what a dataset holds, whether its features are healthy, and what lies near what."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.features import FeatureFile, read_features
from recbole_prism.prepare.encode_inputs import Images
from recbole_prism.prepare.existing import Existing
from recbole_prism.prepare.files import MODALITY, DatasetFolder, add_to_report
from recbole_prism.prepare.neighbours import health, nearest
from recbole_prism.prepare.outputs import is_outdated
from recbole_prism.prepare.paper import statistics
from recbole_prism.prepare.pictures import MAX_PIXELS
from recbole_prism.prepare.sheet import draw_sheet

_QUANTILES = {"min": 0, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}


def inspect_dataset(
    name: str,
    *,
    data_path: str | Path = "dataset",
    items: str | list[str] | None = None,
    n_neighbours: int = 5,
    sheet: int = 0,
    image_root: str | None = None,
) -> dict[str, Any]:
    """Statistics, feature health per modality, and nearest items; also added to the report if there is one.

    ``items``: whose neighbours to list (default: three of the most frequent with features). ``sheet``: that many lines
    in a picture sheet per modality, ``NAME.MODALITY.sheet.jpg``, where image files are at hand.

    Raises:
        PRISMError: no such dataset, a file that cannot be read, an item that no feature file knows.
    """
    folder = DatasetFolder(name, data_path)
    existing = Existing(folder)
    inter = existing.file("inter")
    if inter is None:
        raise PRISMError(f"{folder.file('inter')}: no such file; `recbole-prism prepare` makes it")
    users, popularity = _count(existing, inter)
    titles = existing.titles()
    found: dict[str, Any] = {
        "statistics": statistics({"users": len(users), "items": len(popularity), "interactions": sum(users.values())}),
        "sequence_length": _quantiles(users),
        "item_frequency": _quantiles(popularity),
        "items_with_title": sum(bool(titles.get(item)) for item in popularity),
        "modalities": {},
        "neighbours": {},
        "titles": {},
    }
    features = {modality: read_features(path) for modality, path in _feature_files(existing.places, name).items()}
    chosen = _chosen([items] if isinstance(items, str) else items, features, popularity)
    found["titles"] = {item: titles.get(item, "") for item in chosen}
    for modality, contents in features.items():
        facts = health(contents.item_ids, contents.features, popularity)
        facts["coverage"] = round(facts["covered_items"] / len(popularity), 6)
        facts |= {key: contents.metadata.get(key, "unknown") for key in ("encoder", "normalized", "created_by")}
        facts["outdated"] = is_outdated(folder, contents.metadata.get("source", ""))
        found["modalities"][modality] = facts
        found["neighbours"][modality] = _neighbours(contents, chosen, n_neighbours, titles)
    if sheet:
        found["sheets"] = _sheets(folder, features, popularity, titles, sheet, n_neighbours, image_root)
    if folder.report.is_file():
        add_to_report(folder, "inspect", found)
    return found


def _feature_files(places: list[Path], name: str) -> dict[str, Path]:
    """modality -> file; of two with the same name the first place's, and there the first of these formats'."""
    found: dict[str, Path] = {}
    for place in places:
        for suffix in (".safetensors", ".npy", ".pt"):
            for path in sorted(place.glob(f"{name}.*{suffix}")):
                modality = path.name[len(name) + 1 : -len(suffix)]
                with_ids = suffix != ".npy" or path.with_suffix(".ids.txt").is_file()
                if with_ids and MODALITY.fullmatch(modality):
                    found.setdefault(modality, path)
    return found


def _count(existing: Existing, path: Path) -> tuple[Counter[str], Counter[str]]:
    users: Counter[str] = Counter()
    items: Counter[str] = Counter()
    for user, item in existing.columns(path, "USER_ID_FIELD", "ITEM_ID_FIELD"):
        users[user] += 1
        items[item] += 1
    if not items:
        raise PRISMError(f"{path}: no interactions")
    return users, items


def _quantiles(counts: Counter[str]) -> dict[str, float]:
    values = np.fromiter(counts.values(), np.int64, len(counts))
    found = {name: float(np.percentile(values, percent)) for name, percent in _QUANTILES.items()}
    return found | {"mean": round(float(values.mean()), 3)}


def _chosen(items: list[str] | None, features: dict[str, FeatureFile], popularity: Counter[str]) -> list[str]:
    known = {item for contents in features.values() for item in contents.item_ids}
    for item in items or []:
        if item not in known:
            raise PRISMError(f"item {item!r}: no feature file knows it{suggest(item, known)}")
    return items or [item for item, _ in popularity.most_common() if item in known][:3]


def _neighbours(
    contents: FeatureFile, items: list[str], n: int, titles: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    row_of = {item: row for row, item in enumerate(contents.item_ids)}
    found = {}
    for item in items:
        if item in row_of:
            near = [(contents.item_ids[row], score) for row, score in nearest(contents.features, row_of[item], n)]
            found[item] = [{"item_id": i, "title": titles.get(i, ""), "cosine": round(s, 4)} for i, s in near]
    return found


def _sheets(
    folder: DatasetFolder,
    features: dict[str, FeatureFile],
    popularity: Counter[str],
    titles: dict[str, str],
    n_lines: int,
    n_neighbours: int,
    image_root: str | None,
) -> list[str]:
    options = {"several_images": "first", "max_pixels": MAX_PIXELS, "image_root": image_root}
    files = Images(folder, options).files
    written = []
    for modality, contents in features.items():
        row_of = {item: row for row, item in enumerate(contents.item_ids)}
        shown = [item for item, _ in popularity.most_common() if item in row_of and files.get(item)][:n_lines]
        lines = [
            [(item, 1.0)]
            + [(contents.item_ids[row], score) for row, score in nearest(contents.features, row_of[item], n_neighbours)]
            for item in shown
        ]
        if lines:
            path = folder.file(f"{modality}.sheet.jpg")
            draw_sheet(path, lines, files, titles)
            written.append(str(path))
    return written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the dataset")
    parser.add_argument("--data-path", default="dataset", help="folder of all datasets (default: dataset)")
    parser.add_argument("--item", action="append", dest="items", help="list the neighbours of this item (repeatable)")
    parser.add_argument("--neighbours", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--sheet", type=int, nargs="?", const=10, default=0, metavar="LINES", help="also picture sheets"
    )
    parser.add_argument("--image-root", help="folder of local images (default: the one `prepare` was given)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def main(args: argparse.Namespace) -> int:
    found = inspect_dataset(
        args.name,
        data_path=args.data_path,
        items=args.items,
        n_neighbours=args.neighbours,
        sheet=args.sheet,
        image_root=args.image_root,
    )
    print(json.dumps(found, indent=1, ensure_ascii=False) if args.json else "\n".join(_lines(args.name, found)))
    return 0


def _lines(name: str, found: dict[str, Any]) -> Iterator[str]:
    size = found["statistics"]
    yield f"{name}: {size['users']:,} users, {size['items']:,} items, {size['interactions']:,} interactions"
    for label, key in (("interactions a user", "sequence_length"), ("interactions an item", "item_frequency")):
        yield f"{label}: " + ", ".join(f"{name} {value:g}" for name, value in found[key].items())
    for modality, facts in found["modalities"].items():
        norm = facts["norm"]
        yield ""
        yield f"{modality}: {facts['encoder']}; {facts['rows']:,} x {facts['dimension']} {facts['type']}"
        if facts["outdated"]:
            yield f"  warning: made from other texts or images than these; run `recbole-prism encode {name}` again"
        yield (
            f"  covers {facts['covered_items']:,} items ({facts['coverage']:.1%}); "
            f"rows of other items {facts['rows_of_other_items']:,}"
        )
        yield (
            f"  norms {norm['min']:.4g} to {norm['max']:.4g} (median {norm['median']:.4g}); "
            f"zero vectors {facts['zero_vectors']:,}"
        )
        yield (
            f"  dimensions that hardly vary {facts['near_constant_dimensions']}; "
            f"items with equal features {facts['items_with_equal_features']:,}"
        )
        for group in facts["equal_groups"]:
            yield f"    equal: {', '.join(group)}"
        for item, near in found["neighbours"][modality].items():
            yield f"  nearest to {item} {found['titles'][item]}"
            for row in near:
                yield f"    {row['cosine']:.4f}  {row['item_id']}  {row['title']}"
    for sheet in found.get("sheets", []):
        yield f"picture sheet: {sheet}"
