"""Raw data sets that ``prepare`` reads: one class each, in a table.

To add one: subclass ``Source``, say what its files are, yield interactions and items, and put it into ``SOURCES``.
"""

from __future__ import annotations

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.prepare.sources.amazon import Amazon2014, Amazon2018, Amazon2023
from recbole_prism.prepare.sources.base import Source
from recbole_prism.prepare.sources.movielens import MovieLens
from recbole_prism.prepare.sources.table import Table
from recbole_prism.prepare.sources.yelp import Yelp

SOURCES: dict[str, type[Source]] = {
    "amazon-2014": Amazon2014,
    "amazon-2018": Amazon2018,
    "amazon-2023": Amazon2023,
    "yelp": Yelp,
    "movielens": MovieLens,
    "table": Table,
}


def get_source(name: str) -> type[Source]:
    """Raises PRISMError listing the sources there are."""
    if name not in SOURCES:
        raise PRISMError(f"unknown source {name!r}{suggest(name, SOURCES)}; available: {sorted(SOURCES)}")
    return SOURCES[name]
