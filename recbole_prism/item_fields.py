"""Fields of RecBole's .item file as modalities, of a dataset's items and of new ones.

Shapes: N items (padding included), d values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.features import READERS, Aligned, FeatureFile
from recbole_prism.recommend.catalogue import read_titles


@dataclass
class ItemField:
    """What is needed to read the field of other items alike: its RecBole type, and of tokens which there are."""

    name: str
    kind: str  # token, token_seq, float or float_seq
    tokens: list[str] | None = None  # in the order of the vectors' places

    @classmethod
    def of(cls, dataset, name: str) -> ItemField:
        """The loaded field of that name."""
        kind = dataset.field2type[name].value
        tokens = [str(token) for token in dataset.field2id_token[name][1:]] if kind.startswith("token") else None
        return cls(name, kind, tokens)

    def read(self, path: Path, settings: dict, size: int) -> tuple[FeatureFile, list[str]]:
        """Unscaled vectors [items, size] of an atomic ``.item`` file, as ``from_item_field`` makes them, and the tokens
        that the dataset does not have, which count as empty.

        Items without a value are left out. Raises PRISMError if the file has no such field, or a list of another size.
        """
        if not path.is_file():
            raise PRISMError(f"{path}: no such file")
        item_field = settings["ITEM_ID_FIELD"]
        how = {"separator": settings["field_separator"], "encoding": settings.get("encoding")}
        cells = read_titles(path, item_field, title_field=self.name, **how)
        if not cells:
            raise PRISMError(f"{path}: no items in it; it needs the fields {item_field} and {self.name}")
        rows, unknown = {}, {}
        for item, cell in cells.items():
            values = [v for v in (cell.split(settings["seq_separator"]) if self.is_list else [cell]) if v]
            if self.tokens is None:
                row = self._numbers(values)
                if row is not None and len(row) != size:
                    raise PRISMError(
                        f"{path}: {self.name} of item {item!r} has {len(row)} numbers, and the model knows {size}"
                    )
            else:
                row = self._hot(values)
                unknown |= dict.fromkeys(set(values) - set(self.tokens))
            if row is not None:
                rows[item] = row
        features = np.stack(list(rows.values())) if rows else np.empty((0, size), np.float32)
        return FeatureFile(list(rows), features), sorted(unknown)

    @property
    def is_list(self) -> bool:
        """Whether a cell holds several values."""
        return self.kind.endswith("seq")

    def _hot(self, values: list[str]) -> np.ndarray | None:
        hot = np.isin(self.tokens, values).astype(np.float32)
        return hot if hot.any() else None

    def _numbers(self, values: list[str]) -> np.ndarray | None:
        if not values or not all(map(is_number, values)):
            return None
        numbers = np.array(values, np.float32)
        return numbers if numbers.any() or not self.is_list else None


def from_item_field(config, dataset, name: str, field: str) -> Aligned:
    """A float or float_seq field as it is; a token or token_seq field as one-hot or multi-hot vectors.

    An item whose cell is empty, or a list of zeros alone, does not have the modality (of single numbers: as the .item
    file says, since RecBole puts the mean there).
    """
    fields = [] if dataset.item_feat is None else [f for f in dataset.item_feat.columns if f != dataset.iid_field]
    if field not in fields:
        raise PRISMError(
            f"modality {name!r}: {field!r} is neither a feature file ({', '.join(sorted(READERS))}) "
            f"nor a loaded field of the .item file{suggest(field, fields)}; loaded fields: {fields} (see load_col)"
        )
    column = dataset.item_feat[field].numpy()
    if field in (config["numerical_features"] or ()):
        if field in (config["discretization"] or {}):
            raise PRISMError(f"modality {name!r}: {field!r} is in discretization, which leaves no number of it")
        column = column[..., 0]  # RecBole keeps [value, index] of these
    if dataset.field2type[field].value.startswith("token"):
        hot = np.zeros((dataset.item_num, dataset.num(field)), dtype=np.float32)
        np.put_along_axis(hot, column.reshape(len(column), -1).astype(np.int64), 1.0, axis=1)
        values = hot[:, 1:]  # token 0 is RecBole's padding: the item has no value there
        covered = values.any(axis=1)
    else:
        values = np.nan_to_num(column.reshape(len(column), -1).astype(np.float32))
        covered = values.any(axis=1) if column.ndim > 1 else _has_number(config, dataset, field)
    covered[0] = False
    return Aligned(values * covered[:, None], covered, encoder=f"field {field}")


def _has_number(config, dataset, field: str) -> np.ndarray:
    """Which items have a number in a float field of the .item file: bool [N]; all, if the file lacks it."""
    file = Path(config["data_path"]) / f"{config['dataset']}.item"
    how = {"separator": config["field_separator"], "encoding": config["encoding"]}
    try:
        cells = read_titles(file, dataset.iid_field, title_field=field, **how)
    except PRISMError:  # no such file or field: what a Dataset of the user's own has computed
        return np.ones(dataset.item_num, dtype=bool)
    return np.array([is_number(cells.get(str(token), "")) for token in dataset.field2id_token[dataset.iid_field]])


def is_number(text: str) -> bool:
    """Whether a cell holds a finite number."""
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
