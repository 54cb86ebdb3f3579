"""Which configuration keys a fusion reads: others would change nothing of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch

from recbole_prism.checks import CHECKS
from recbole_prism.config import model_yamls, read_yaml
from recbole_prism.fusion import FUSIONS, build_fusion, find_fusion


@functools.cache
def keys_read(name: str) -> frozenset[str]:
    """Configuration keys that a fusion reads, found by building it for two modalities; all, if that fails."""

    class Recording(dict):
        def __getitem__(self, key: str):
            read.add(key)
            return self.get(key)

    read: set[str] = set()
    own = getattr(find_fusion(name), "defaults", {})
    given = Recording({**read_yaml(model_yamls("PRISM")[0]), **own, "fusion": name})
    try:
        with torch.random.fork_rng(devices=[]):
            build_fusion(given, ["image", "text"], 8)
    except Exception:  # one of the user's own
        return frozenset(CHECKS)
    return frozenset(read - {"fusion"})


def without_effect(name: str, keys: Iterable[str]) -> list[str]:
    """Those of ``keys`` that some fusion reads and this one does not."""
    read_by_some = frozenset().union(*map(keys_read, FUSIONS))
    return [key for key in keys if key in read_by_some - keys_read(name)]
