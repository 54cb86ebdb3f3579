"""The options of ``encode``: defaults, what they may be, the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.prepare.encode_inputs import LONG_TEXTS, SEVERAL_IMAGES
from recbole_prism.prepare.encoders import ENCODERS, PRECISIONS
from recbole_prism.prepare.files import MODALITY
from recbole_prism.prepare.pictures import MAX_PIXELS
from recbole_prism.prepare.shards import TYPES

DEFAULTS: dict[str, Any] = {
    "model": "ViT-B-32",
    "pretrained": None,
    "device": "auto",
    "precision": "fp32",
    "batch_size": 64,
    "workers": 0,
    "normalize": True,
    "dtype": "float16",
    "long_text": "truncate",
    "max_chunks": 8,
    "several_images": "mean",
    "max_pixels": MAX_PIXELS,
    "image_root": None,
    "shard_items": 1024,
    "feature_name": None,
    "vectors": None,
    "ids": None,
}
_CHOICES = {"precision": PRECISIONS, "dtype": tuple(TYPES), "long_text": LONG_TEXTS, "several_images": SEVERAL_IMAGES}


def complete(options: dict[str, Any], modalities: Sequence[str] | None) -> dict[str, Any]:
    """The given options over the defaults; raises PRISMError for one that does not exist or a value out of range."""
    unknown = sorted(set(options) - set(DEFAULTS))
    if unknown:
        available = sorted([*DEFAULTS, "encoder", "modalities", "force", "progress"])
        raise PRISMError(f"unknown options {unknown}{suggest(unknown[0], available)}; available: {available}")
    options = DEFAULTS | {key: value for key, value in options.items() if value is not None}
    for key, allowed in _CHOICES.items():
        if options[key] not in allowed:
            raise PRISMError(f"--{key.replace('_', '-')} {options[key]!r}: one of {list(allowed)}")
    for key, least in (("batch_size", 1), ("shard_items", 1), ("max_chunks", 1), ("max_pixels", 1), ("workers", 0)):
        if not str(options[key]).isdecimal() or int(options[key]) < least:
            raise PRISMError(f"--{key.replace('_', '-')} {options[key]}: {least} or more")
        options[key] = int(options[key])
    if options["feature_name"] and not (MODALITY.fullmatch(options["feature_name"]) and len(modalities or ()) == 1):
        raise PRISMError(
            f"--feature-name {options['feature_name']!r}: small letters, digits and '_'; for one --modality"
        )
    return options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the dataset")
    parser.add_argument("--data-path", default="dataset", help="folder of all datasets (default: dataset)")
    parser.add_argument(
        "--encoder", default="open_clip", choices=[*sorted(ENCODERS), "vectors"], help="default: open_clip"
    )
    parser.add_argument("--modality", nargs="+", dest="modalities", help="image, text (default: all the encoder can)")
    parser.add_argument("--model", help="architecture, or a sentence-transformers model (default: ViT-B-32)")
    parser.add_argument("--pretrained", help="name that open_clip knows, or a checkpoint file")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the model (default: fp32)")
    parser.add_argument("--dtype", choices=list(TYPES), help="of the file (default: float16)")
    parser.add_argument("--batch-size", type=int, help="default: 64")
    parser.add_argument("--workers", type=int, help="threads that decode and tokenise (default: up to 8)")
    parser.add_argument("--no-normalize", dest="normalize", action="store_false", default=None, help="keep lengths")
    parser.add_argument("--long-text", choices=LONG_TEXTS, help="default: truncate; mean: of chunks")
    parser.add_argument("--max-chunks", type=int, help="of one text (default: 8)")
    parser.add_argument("--several-images", choices=SEVERAL_IMAGES, help="of one item (default: mean)")
    parser.add_argument("--max-pixels", type=int, help=f"of one image (default: {MAX_PIXELS})")
    parser.add_argument("--image-root", help="folder of local images (default: the one `prepare` was given)")
    parser.add_argument("--shard-items", type=int, help="items between two savings (default: 1024)")
    parser.add_argument("--feature-name", help="of the file, instead of the modality")
    parser.add_argument("--vectors", help="for --encoder vectors: .npy, .pt, .safetensors or an atomic file")
    parser.add_argument("--ids", help="for --encoder vectors: item ids, one a line, in the order of the rows")
    parser.add_argument("--force", action="store_true", help="encode again even if nothing has changed")
