"""The error a user can mend: one line, no traceback unless ``--debug``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MANY = 5000  # names, beyond which looking for like ones takes longer than an answer may


class PRISMError(ValueError):
    """Bad input. The message names the file or key and says what would be right; the command line exits with 1."""


def nearest(name: str, available: Iterable[str], *, n: int = 3) -> list[str]:
    """Names out of ``available`` that look like ``name``, best first; compared without regard to case; among many names
    only one that differs in nothing else."""
    by_folded = {candidate.casefold(): candidate for candidate in available}
    if len(by_folded) > MANY:
        return [by_folded[name.casefold()]] if name.casefold() in by_folded else []
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=n, cutoff=0.6)
    return [by_folded[match] for match in matches]


def suggest(name: str, available: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for an error message, or an empty string."""
    matches = nearest(name, available)
    return f" (did you mean {' or '.join(repr(match) for match in matches)}?)" if matches else ""
