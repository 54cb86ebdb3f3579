"""Importing open_clip, also where torchvision's compiled half does not fit torch."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from recbole_prism.errors import PRISMError

_NEEDS = "open_clip features need open_clip_torch, torchvision and Pillow: pip install 'recbole-prism[clip]'"
# What torchvision's Python half declares fake versions for, at import; we never call them.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # torch.library.Library objects take their definitions along when they are collected


def import_open_clip() -> Any:
    """The ``open_clip`` module. Raises PRISMError if it or something it needs is not installed."""
    mend_torchvision()
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise PRISMError(f"{_NEEDS} ({error})") from error


def mend_torchvision() -> None:
    """Make ``import torchvision`` work where only its compiled half is the trouble; otherwise do nothing.

    A torchvision built for another torch (a CPU build of torch from its own index beside torchvision from PyPI) does
    not load its compiled operators, and then its import fails with "operator torchvision::nms does not exist", although
    the transforms that open_clip wants are plain Python. Only after such a failure the two operators are declared,
    without an implementation, the half-imported modules are dropped, and the import is tried once more.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return  # whoever needs it will say so
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_operators()
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")


def _declare_operators() -> None:
    global _library
    if _library is None:
        import torch

        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
