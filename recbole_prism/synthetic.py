"""``recbole-prism synthesize``: sequences whose next item depends on the features in a known way.

Every item of a history shows an image cluster a and a text cluster b, the same ones throughout the history, and the
class y of the next item is a function of them (``RULES``). Three choices keep other explanations out:

* histories of training, validation and test are made of different items, so nothing is learned about them by id;
* next items are few and are never part of a history; which of them belong to class y, no feature tells;
* clusters and next items are balanced exactly, so information is a count and not an estimate.

What ids do tell is the group of a user: a history begins with a marker, an item of its group without any feature.

Shapes: R rows (one user, one history and one next item each), C clusters, G groups.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.features import write_features
from recbole_prism.prepare.atomic import write_inter
from recbole_prism.prepare.files import DatasetFolder, add_to_report, atomic_write, versions
from recbole_prism.prepare.interactions import Interactions

# kind: (y from a and b, or None where it depends on neither; which part of the information all of log2 C bits are)
RULES = {
    "unique_image": (lambda a, b, n: a, "unique_image"),
    "unique_text": (lambda a, b, n: b, "unique_text"),
    "redundant": (lambda a, b, n: a, "redundancy"),  # b = a
    "synergy": (lambda a, b, n: (a + b) % n, "synergy"),  # exclusive or, for two clusters
    "noise": (None, None),
}
MIXTURE = ("unique_image", "unique_text", "redundant", "synergy")
PARTS = ("train", "valid", "test")

_YAML = """\
# {name}: made by `recbole-prism synthesize`; {name}.report.json says how.
field_separator: "\\t"           # (str) Separator of different columns in atomic files.
seq_separator: " "              # (str) Separator inside the sequence features.
USER_ID_FIELD: user_id          # (str) Field name of user ID feature.
ITEM_ID_FIELD: item_id          # (str) Field name of item ID feature.
benchmark_filename: [train, valid, test]  # (list) Rows as they are: one history and its next item per user.
alias_of_item_id: [item_id_list]          # (list) Histories and next items have the same ids.
load_col:                       # (dict) Clusters (.item) and groups (.user) are the answer, not an input.
    inter: [user_id, item_id_list, item_id]
MAX_ITEM_LIST_LENGTH: {length}         # (int) A marker and {items} items.
fusion_scope: sequence          # (str) Each row has one target.
feature_scaling: none           # (str) Vectors have length one already.
valid_metric: Recall@{topk}
topk: [{topk}]                      # (list) Next items per class: a model that knows the class reaches a recall of 1.
"""


@dataclass
class Sizes:
    """How much is made. rows: training rows per group, test a third, validation a sixth, rounded up to be balanced."""

    rows: int = 3840
    clusters: int = 4
    next_items: int = 10  # per class
    history: int = 3  # items with features
    repeats: int = 4  # rows in which an item of a history appears
    markers: int = 4  # per group
    dimension: int = 16
    spread: float = 0.3  # length of what is added to the centre of a cluster, whose length is 1

    def check(self) -> None:
        """Raise PRISMError for sizes that cannot be."""
        for name, value in vars(self).items():
            if value < (0 if name == "spread" else 2 if name == "clusters" else 1):
                raise PRISMError(f"--{name}: {value} is too small")
        if self.dimension < self.clusters:
            raise PRISMError(f"--dimension: {self.dimension} cannot hold {self.clusters} orthogonal centres")


@dataclass
class Made:
    """group, a, b, y, target [R], history [R, 1 + items] (ids into tokens), part [R]; clusters of items, -1 = none."""

    tokens: list[str]
    image_cluster: np.ndarray
    text_cluster: np.ndarray
    next_class: np.ndarray
    rows: dict[str, np.ndarray] = field(default_factory=dict)


def synthesize(kinds: tuple[str, ...], sizes: Sizes, seed: int) -> tuple[Made, dict[str, np.ndarray]]:
    """Rows and items, and the vectors of each modality [items, dimension]; one group of users per kind."""
    for kind in kinds:
        if kind not in RULES:
            raise PRISMError(f"kind {kind!r} is unknown{suggest(kind, RULES)}; available: {[*RULES, 'mixture']}")
    sizes.check()
    rng = np.random.default_rng(seed)
    catalogue = _Catalogue(sizes, rng)
    targets = catalogue.add_next_items()
    parts = []
    for number, kind in enumerate(kinds):
        markers = catalogue.add_items("m", np.full(sizes.markers, -1), np.full(sizes.markers, -1))
        for part, share in zip(PARTS, (1, 1 / 6, 1 / 3), strict=True):
            rows = _balanced(kind, sizes, round(sizes.rows * share), rng)
            rows["target"] = targets[rows["y"], rows.pop("choice")]
            begin = rng.choice(markers, size=(len(rows["y"]), 1))
            rows["history"] = np.concatenate([begin, catalogue.draw_histories(rows["a"], rows["b"])], axis=1)
            n = len(rows["y"])
            parts.append(rows | {"group": np.full(n, number), "part": np.full(n, PARTS.index(part))})
    made = catalogue.made()
    made.rows = {name: np.concatenate([rows[name] for rows in parts]) for name in parts[0]}
    order = rng.permutation(len(made.rows["y"]))
    made.rows = {name: values[order] for name, values in made.rows.items()}
    features = {name: _vectors(getattr(made, f"{name}_cluster"), sizes, rng) for name in ("image", "text")}
    return made, features


def _balanced(kind: str, sizes: Sizes, wanted: int, rng) -> dict[str, np.ndarray]:
    """a, b, y and the choice among next items of y, every possible combination equally often."""
    n, rule = sizes.clusters, RULES[kind][0]
    axes = [np.arange(n), np.arange(n), np.arange(n), np.arange(sizes.next_items)]
    a, b, y, choice = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    possible = (a == b) if kind == "redundant" else np.ones(len(a), dtype=bool)
    possible &= (y == rule(a, b, n)) if rule else True
    grid = np.flatnonzero(possible)
    index = rng.permutation(np.tile(grid, max(1, -(-wanted // len(grid)))))
    return {"a": a[index], "b": b[index], "y": y[index], "choice": choice[index]}


class _Catalogue:
    """Items as they are made."""

    def __init__(self, sizes: Sizes, rng) -> None:
        self.sizes, self.rng = sizes, rng
        self.tokens: list[str] = []
        self.image: list[np.ndarray] = []
        self.text: list[np.ndarray] = []
        self.classes: list[np.ndarray] = []

    def add_items(self, letter: str, image: np.ndarray, text: np.ndarray, classes=None) -> np.ndarray:
        first = len(self.tokens)
        self.tokens += [f"{letter}{first + n}" for n in range(len(image))]
        self.image.append(image)
        self.text.append(text)
        self.classes.append(np.full(len(image), -1) if classes is None else classes)
        return np.arange(first, len(self.tokens))

    def add_next_items(self) -> np.ndarray:
        """[C, next items per class]; their own clusters say nothing."""
        n, each = self.sizes.clusters, self.sizes.next_items
        image, text = (self.rng.permutation(np.tile(np.arange(n), each)) for _ in range(2))
        return self.add_items("n", image, text, np.repeat(np.arange(n), each)).reshape(n, each)

    def draw_histories(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """[R, items]: new items of clusters a, b [R], each in about ``repeats`` places and twice in no history."""
        items, n = self.sizes.history, self.sizes.clusters
        histories = np.empty((len(a), items), dtype=np.int64)
        for cell in np.unique(a * n + b):
            rows = np.flatnonzero(a * n + b == cell)
            count = max(items, round(len(rows) * items / self.sizes.repeats))
            new = self.add_items("i", np.full(count, cell // n), np.full(count, cell % n))
            for first in range(0, len(rows), count // items):  # one round over the items
                some = rows[first : first + count // items]
                histories[some] = self.rng.permutation(new)[: len(some) * items].reshape(-1, items)
        return histories

    def made(self) -> Made:
        image, text, classes = map(np.concatenate, (self.image, self.text, self.classes))
        return Made(self.tokens, image, text, classes)


def _vectors(cluster: np.ndarray, sizes: Sizes, rng) -> np.ndarray:
    """Orthogonal centres of length 1, and noise of length about ``spread``: cluster [items] -> [items, dimension]."""
    centres = np.linalg.qr(rng.normal(size=(sizes.dimension, sizes.clusters)))[0].T
    noise = rng.normal(size=(len(cluster), sizes.dimension)) * sizes.spread / np.sqrt(sizes.dimension)
    return (centres[cluster] + noise).astype(np.float32)


def write_dataset(
    name: str,
    kinds: tuple[str, ...],
    *,
    sizes: Sizes | None = None,
    seed: int = 0,
    data_path: str | Path = "dataset",
    force: bool = False,
) -> dict:
    """Make ``DATA_PATH/NAME``: rows, all interactions, clusters, groups, features and yaml. Returns the report."""
    sizes, folder = sizes or Sizes(), DatasetFolder(name, data_path)
    there = sorted(file.name for file in folder.path.glob(f"{name}.*")) if folder.path.is_dir() else []
    if there and not force:
        raise PRISMError(f"{folder.path}: holds a dataset already ({there[0]}); --force overwrites it")
    made, features = synthesize(kinds, sizes, seed)
    folder.path.mkdir(parents=True, exist_ok=True)
    rows = made.rows
    users = [f"u{number}" for number in range(len(rows["y"]))]
    for code, part in enumerate(PARTS):
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        for row in np.flatnonzero(rows["part"] == code):
            history = " ".join(made.tokens[item] for item in rows["history"][row])
            lines.append(f"{users[row]}\t{history}\t{made.tokens[rows['target'][row]]}")
        _write(folder.file(f"{part}.inter"), lines)
    write_inter(folder, _interactions(made, users))
    names = [f"{kinds[group]}{'' if kinds.count(kinds[group]) == 1 else group}" for group in range(len(kinds))]
    _write(
        folder.file("user"),
        ["user_id:token\tgroup:token"] + [f"{users[n]}\t{names[g]}" for n, g in enumerate(rows["group"])],
    )
    columns = (made.image_cluster, made.text_cluster, made.next_class)
    cells = [["" if value < 0 else str(value) for value in column] for column in columns]
    lines = ["item_id:token\timage_cluster:token\ttext_cluster:token\tnext_class:token"]
    _write(folder.file("item"), lines + ["\t".join(line) for line in zip(made.tokens, *cells, strict=True)])
    shown = np.flatnonzero(made.image_cluster >= 0)
    for modality, vectors in features.items():
        tokens = [made.tokens[item] for item in shown]
        write_features(folder.file(f"{modality}.safetensors"), tokens, vectors[shown], encoder="synthetic", seed=seed)
    text = _YAML.format(name=name, length=1 + sizes.history, items=sizes.history, topk=sizes.next_items)
    _write(folder.file("yaml"), text.splitlines())
    bits = float(np.log2(sizes.clusters))
    truth = {n: {RULES[kind][1]: bits} if RULES[kind][1] else {} for n, kind in zip(names, kinds, strict=True)}
    counts = {part: int((rows["part"] == code).sum()) for code, part in enumerate(PARTS)}
    report = {"seed": seed, "sizes": vars(sizes), "rows": counts, "items": len(made.tokens), "bits": truth}
    add_to_report(folder, "synthesize", {**report, "versions": versions("numpy")})
    return report


def _interactions(made: Made, users: list[str]) -> Interactions:
    """Every user's history, then the next item, in time."""
    whole = np.concatenate([made.rows["history"], made.rows["target"][:, None]], axis=1)
    n_rows, length = whole.shape
    times = np.tile(np.arange(length, dtype=np.float64), n_rows)
    owner = np.repeat(np.arange(n_rows, dtype=np.int32), length)
    return Interactions(users, made.tokens, owner, whole.ravel().astype(np.int32), np.full(len(times), np.nan), times)


def _write(path: Path, lines: list[str]) -> None:
    with atomic_write(path) as stream:
        stream.write("\n".join(lines) + "\n")


def parse_kinds(text: str) -> tuple[str, ...]:
    """``synergy``; ``unique_image,noise``: a group of users for each; ``mixture``: one for each informative kind."""
    return MIXTURE if text == "mixture" else tuple(text.split(","))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the dataset to make")
    parser.add_argument(
        "--kind", default="mixture", help=f"{', '.join(RULES)}, several with commas, or mixture (mixture)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (0)")
    parser.add_argument("--data-path", "--data_path", default="dataset", help="where datasets lie (dataset)")
    parser.add_argument("--force", action="store_true", help="overwrite a dataset of that name")
    for name, value in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{HELP[name]} ({value})")


HELP = {
    "rows": "training rows per group",
    "clusters": "clusters of each modality, and classes of next items",
    "next_items": "next items per class",
    "history": "items with features per history",
    "repeats": "rows in which an item of a history appears",
    "markers": "items per group that show it by their id",
    "dimension": "size of the features",
    "spread": "length of the noise added to centres of length 1",
}


def main(arguments: argparse.Namespace) -> int:
    """Make the dataset and say what is in it."""
    sizes = Sizes(**{name: getattr(arguments, name) for name in HELP})
    report = write_dataset(
        arguments.name,
        parse_kinds(arguments.kind),
        sizes=sizes,
        seed=arguments.seed,
        data_path=arguments.data_path,
        force=arguments.force,
    )
    counts = ", ".join(f"{count} {part}" for part, count in report["rows"].items())
    print(f"{arguments.data_path}/{arguments.name}: {counts} rows, {report['items']} items")
    for group, bits in report["bits"].items():
        known = ", ".join(f"{value:g} bits {part}" for part, value in bits.items()) or "nothing"
        print(f"  group {group}: the features tell {known} about the class of the next item")
    return 0
