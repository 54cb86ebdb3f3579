"""Pictures for tests, encoded in memory."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("PIL", reason="the extra [clip] (Pillow) is not installed")

import numpy as np
from PIL import Image


def encode(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def jpeg(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    rng = np.random.default_rng(seed)
    return encode(Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)), "JPEG")
