"""A dataset that is there already: where its files lie, and the rows of its atomic files as RecBole reads them."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from recbole_prism.datasets import dataset_settings
from recbole_prism.errors import PRISMError, suggest
from recbole_prism.paths import DATASETS
from recbole_prism.prepare.files import DatasetFolder
from recbole_prism.recommend.catalogue import read_titles


class Existing:
    """Files of a dataset, in its folder or bundled; field names, separator and encoding are those of its NAME.yaml."""

    def __init__(self, folder: DatasetFolder):
        self.folder = folder
        self.places = [folder.path, DATASETS / folder.name, *_bundled(folder.name)]
        settings = dataset_settings(folder.name, str(folder.path.parent))
        self.fields = {key: settings.get(key) or key[:-6].lower() for key in ("USER_ID_FIELD", "ITEM_ID_FIELD")}
        self.separator = settings.get("field_separator") or "\t"
        self.encoding = settings.get("encoding") or "utf-8-sig"

    def file(self, suffix: str) -> Path | None:
        """The first place's ``NAME.SUFFIX``, None without any."""
        files = (place / f"{self.folder.name}.{suffix}" for place in self.places)
        return next((file for file in files if file.is_file()), None)

    def columns(self, path: Path, *keys: str) -> Iterator[tuple[str, ...]]:
        """The named fields (``ITEM_ID_FIELD``, ...) of every row of an atomic file.

        Raises:
            PRISMError: the file has no such field.
        """
        csv.field_size_limit(2**31 - 1)
        with open(path, encoding=self.encoding, newline="") as stream:
            if len(self.separator) == 1:
                reader = csv.reader(stream, delimiter=self.separator)
            else:  # a regular expression, as for pandas
                reader = (re.split(self.separator, line.rstrip("\r\n")) for line in stream)
            header = [column.split(":")[0] for column in next(reader, [])]
            for key in keys:
                if self.fields[key] not in header:
                    raise PRISMError(
                        f"{path}: no column {self.fields[key]}; columns: {header}"
                        f"{suggest(self.fields[key], header)}; set {key} in {self.folder.file('yaml')}"
                    )
            places = [header.index(self.fields[key]) for key in keys]
            for row in reader:
                if len(row) > max(places):  # of a blank line there is nothing
                    yield tuple(row[place] for place in places)

    def titles(self) -> dict[str, str]:
        """Item id -> title, as far as there are any."""
        path = self.file("item") or self.folder.file("item")
        return read_titles(path, self.fields["ITEM_ID_FIELD"], separator=self.separator, encoding=self.encoding)


def _bundled(name: str) -> list[Path]:
    """Where RecBole's wheel keeps an example dataset of that name."""
    spec = importlib.util.find_spec("recbole")
    places = (
        [Path(place) / "dataset_example" / name for place in (spec.submodule_search_locations or [])] if spec else []
    )
    return [place for place in places if place.is_dir()]
