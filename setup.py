"""Packaging. The yaml files and embedded features lie at the top of a clone and inside the package in a wheel."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read(name: str) -> str:
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


VERSION = re.search(r'^__version__ = "(.+)"$', read("recbole_prism/version.py"), re.MULTILINE).group(1)

# What RecBole 1.2.1 really needs. Its own list also names ray <= 2.6.3, which Python 3.12 and later cannot install
# and which numpy 2 cannot import; recbole_prism.compat replaces the one call made to it.
RECBOLE_NEEDS = [
    "colorama>=0.4.4",
    "colorlog>=4.7.2",
    "numpy>=1.26",
    "pandas>=2.0,<3",  # pandas 3 leaves NaN in RecBole's data silently
    "plotly>=5.0",
    "psutil>=5.9.0",
    "pyyaml>=6.0",
    "scikit-learn>=1.3",
    "scipy>=1.11",
    "tabulate>=0.8.10",
    "tensorboard>=2.15",
    "texttable>=0.9.0",
    "thop>=0.1.1.post2207130030",
    "torch>=2.4",
    "tqdm>=4.48.2",
]
OURS = ["httpcore>=1.0", "httpx>=0.27", "optuna>=4.0", "orjson>=3.9", "pyarrow>=15", "safetensors>=0.4"]
HYPEROPT = ["hyperopt>=0.2.7"]
FIGURES = ["matplotlib>=3.8"]
PID = ["clarabel>=0.11"]
CLIP = ["open_clip_torch>=3.0", "pillow>=10.0", "torchvision>=0.19"]
DEV = ["build>=1.0", "hypothesis>=6.100", "pytest>=8.0", "ruff>=0.15", "setuptools>=77", "wheel>=0.43"]
DEV += [*FIGURES, *HYPEROPT, *PID]

setup(
    name="recbole-prism",
    version=VERSION,
    description="Multimodal interaction experts (PRISM) for RecBole's sequential models",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    author="RecBole-PRISM contributors",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    # From 3.12 on: `pip install --no-deps recbole==1.2.1` besides (README).
    install_requires=['recbole==1.2.1; python_version < "3.12"', *RECBOLE_NEEDS, *OURS],
    extras_require={
        "clip": CLIP,
        "ray": ["ray[tune]>=2.40"],
        "figures": FIGURES,
        "hyperopt": HYPEROPT,
        "pid": PID,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["recbole-prism=recbole_prism.__main__:main"]},
    packages=[
        *find_packages(include=["recbole_prism", "recbole_prism.*"]),
        "recbole_prism.properties",
        "recbole_prism.dataset",
    ],
    package_dir={"recbole_prism.properties": "properties", "recbole_prism.dataset": "dataset"},
    # Only what is embedded: datasets that a user keeps in dataset/ stay out of the wheel.
    package_data={
        "recbole_prism.properties": ["**/*.yaml", "**/*.hyper"],
        "recbole_prism.dataset": ["ml-100k/*.safetensors"],
        "recbole_prism.report": ["*.css", "*.js"],
    },
    include_package_data=False,
    zip_safe=False,
)
