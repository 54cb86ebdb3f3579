"""A real open_clip model of tiny architecture, with a checkpoint on disk."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

if importlib.util.find_spec("open_clip") is None:  # not importorskip: its import may need the cure of clip_import
    pytest.skip("the extra [clip] (open_clip_torch) is not installed", allow_module_level=True)

NAME = "tiny-prism-test"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def register(folder: Path) -> None:
    """Make open_clip of this process know the architecture."""
    from recbole_prism.prepare.clip_import import import_open_clip

    path = folder / f"{NAME}.json"
    path.write_text(json.dumps(CONFIG))
    import_open_clip().add_model_config(path)


def checkpoint(folder: Path, seed: int = 0) -> Path:
    import torch

    from recbole_prism.prepare.clip_import import import_open_clip

    register(folder)
    torch.manual_seed(seed)
    model = import_open_clip().create_model(NAME)
    path = folder / f"tiny{seed}.pt"
    torch.save(model.state_dict(), path)
    return path


def tokenizer():
    from recbole_prism.prepare.clip_import import import_open_clip

    return import_open_clip().get_tokenizer(NAME)
