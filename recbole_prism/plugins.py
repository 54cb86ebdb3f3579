"""Modules of the user's own, with models, fusions or metrics that our commands shall know."""

from __future__ import annotations

import importlib
import os

from recbole_prism.errors import PRISMError

VARIABLE = "RECBOLE_PRISM_IMPORT"  # names of modules, separated by commas; inherited by the processes that we start


def import_plugins() -> None:
    """Import them. Raises PRISMError for one that cannot be imported."""
    for name in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise PRISMError(
                f"{VARIABLE}: {name} cannot be imported ({error}); is its folder on PYTHONPATH?"
            ) from error
