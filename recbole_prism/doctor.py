"""``recbole-prism doctor``: versions, what was mended, devices, and what is missing for which feature."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

from recbole_prism.version import __version__

PACKAGES = ("recbole", "torch", "numpy", "scipy", "pandas", "safetensors", "ray", "hyperopt")
OPTIONAL = {  # feature: (packages it needs, what to install)
    "encode images and texts": (("open_clip_torch", "torchvision", "pillow"), "recbole-prism[clip]"),
    "download images": (("httpx",), "httpx"),
    "tune with RecBole's HyperTuning": (("hyperopt",), "hyperopt"),
    "decompose information (pid)": (("clarabel",), "recbole-prism[pid]"),
    "tune with Optuna": (("optuna",), "optuna"),
    "tune on a Ray cluster (--ray)": (("ray", "optuna"), "recbole-prism[ray]"),
    "figures as SVG and PNG (figures: True, compare --figures)": (("matplotlib",), "recbole-prism[figures]"),
    "encode texts with sentence-transformers": (("sentence-transformers",), "sentence-transformers"),
    "recommend to Parquet": (("pyarrow",), "pyarrow"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def main(arguments: argparse.Namespace) -> int:
    """Print the report. Raises what keeps RecBole from running here."""
    from recbole_prism.register import register

    print(f"recbole-prism {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        print(f"  {package:<14}{_installed(package) or 'not installed'}")
    register()
    print("mended in RecBole:")
    for line in _mended():
        print(f"  {line}")
    print("devices:")
    for line in devices():
        print(f"  {line}")
    print("features:")
    for feature, (packages, install) in OPTIONAL.items():
        missing = [package for package in packages if not _installed(package)]
        print(f"  {feature}: {f'missing {chr(44).join(missing)}; pip install {install}' if missing else 'ready'}")
    return 0


def _mended() -> list[str]:
    from recbole_prism.compat import MENDED

    return list(MENDED.values()) or ["nothing needed mending"]


def devices() -> list[str]:
    """What torch can compute on."""
    import torch

    found = [f"cpu: {torch.get_num_threads()} threads"]
    for n in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(n)
        found.append(f"cuda:{n}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps: present, not used by RecBole")
    return found


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
