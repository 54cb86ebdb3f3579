"""Datasets a user can name: RecBole's bundled ones, and folders with atomic files."""

from __future__ import annotations

from pathlib import Path

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.paths import PROPERTIES

BUNDLED = ("ml-100k",)  # in RecBole's wheel


def dataset_yaml(dataset: str, data_path: str) -> Path | None:
    """The yaml that goes with a prepared dataset (``data_path/NAME/NAME.yaml``), else ours of that name, else None."""
    for file in (Path(data_path) / dataset / f"{dataset}.yaml", PROPERTIES / "dataset" / f"{dataset}.yaml"):
        if file.is_file():
            return file
    return None


def dataset_settings(dataset: str, data_path: str) -> dict:
    """What that file sets, nothing without one."""
    from recbole_prism.config import read_yaml

    file = dataset_yaml(dataset, data_path)
    return read_yaml(file) if file else {}


def check_dataset(dataset: str, data_path: str) -> None:
    """Raise PRISMError if there are no interactions of that name, with the nearest names that exist.

    RecBole downloads known datasets by name; without a local folder that is left to it only for names it lists.
    """
    folder = Path(data_path)
    if dataset in BUNDLED or any((folder / dataset).glob(f"{dataset}*.inter")) or dataset in downloadable():
        return
    local = [f.name for f in folder.iterdir() if any(f.glob(f"{f.name}*.inter"))] if folder.is_dir() else []
    available = sorted({*BUNDLED, *local})
    raise PRISMError(
        f"dataset {dataset!r}: no {folder / dataset / dataset}.inter{suggest(dataset, [*available, *downloadable()])}; "
        f"available here: {', '.join(available)} (see `recbole-prism prepare`, or set data_path)"
    )


def downloadable() -> list[str]:
    """Names that RecBole downloads by itself (properties/dataset/url.yaml)."""
    import recbole
    import yaml

    file = Path(recbole.__file__).parent / "properties" / "dataset" / "url.yaml"
    return list(yaml.safe_load(file.read_text(encoding="utf-8")))
