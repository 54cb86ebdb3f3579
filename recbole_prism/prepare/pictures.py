"""Pictures as they come -> RGB, or a reason why not. Nothing here raises anything but Unusable."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from recbole_prism.errors import PRISMError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 64_000_000
MAX_BYTES = 64 << 20
MAX_RATIO = 50  # of the sides; resizing the short side would blow up the long one
SUFFIXES = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
}


class Unusable(Exception):
    """Not a picture we can show an encoder; the message is the reason."""


def pillow() -> Any:
    """``PIL.Image``; raises PRISMError naming the extra to install."""
    try:
        from PIL import Image
    except ImportError as error:
        raise PRISMError("pictures need Pillow: pip install 'recbole-prism[clip]'") from error
    return Image


def decode(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> tuple[Any, str]:
    """(PIL image in RGB, upright; format name).

    The first frame of an animation; transparency on white; 16-bit grey scaled, not clipped; CMYK by its own profile if
    it has one. Decoding never starts on more than ``max_pixels``.

    Raises:
        Unusable: empty, not an image, truncated, too large, or a pixel format without a known meaning.
    """
    image_module = pillow()
    try:
        if isinstance(source, Path):
            size = source.stat().st_size
            if size > MAX_BYTES:
                raise Unusable(f"file larger than {MAX_BYTES} bytes")
            source = source.read_bytes()
        if not source:
            raise Unusable("empty file")
        image_module.init()
        formats = [name for name in FORMATS if name in image_module.OPEN]
        with image_module.open(io.BytesIO(source), formats=formats) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise Unusable(f"{width} x {height} pixels, more than {max_pixels}")
            if min(width, height) < 1 or max(width, height) > MAX_RATIO * min(width, height):
                raise Unusable(f"{width} x {height} pixels: sides too unequal")
            if getattr(picture, "is_animated", False):
                picture.seek(0)
            picture.load()
            return _to_rgb(_upright(picture)), str(picture.format)
    except Unusable:
        raise
    except image_module.UnidentifiedImageError:
        raise Unusable("not an image of a known format") from None
    except image_module.DecompressionBombError:
        raise Unusable("decompression bomb") from None
    except MemoryError:
        raise Unusable("needs too much memory") from None
    except Exception as error:  # decoders of broken data raise about anything: OSError, SyntaxError, struct.error, ...
        raise Unusable(f"damaged: {' '.join(str(error).split())[:120] or type(error).__name__}") from None


def _upright(picture: Any) -> Any:
    """Turned as its EXIF data say; data that cannot be read turn nothing."""
    from PIL import ImageOps

    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(picture) or picture
    return picture


def _to_rgb(picture: Any) -> Any:
    mode = picture.mode
    if mode == "RGB" and "transparency" not in picture.info:
        return picture
    if mode.startswith("I;16") or mode == "I":
        return _grey_16(picture)
    if mode == "CMYK":
        return _from_cmyk(picture)
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return _on_white(picture)
    if mode in ("1", "L", "P", "YCbCr", "RGBX", "HSV"):
        return picture.convert("RGB")
    raise Unusable(f"pixel format {mode} has no certain colours")


def _on_white(picture: Any) -> Any:
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert({"RGBa": "RGBA", "La": "LA"}[picture.mode])
    layer = picture.convert("RGBA")
    ground = pillow().new("RGBA", layer.size, (255, 255, 255, 255))
    ground.alpha_composite(layer)
    return ground.convert("RGB")


def _grey_16(picture: Any) -> Any:
    """16-bit grey to 8: Pillow's own conversion clips everything above 255 to white."""
    import numpy as np

    values = np.asarray(picture).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise Unusable("integer pixels outside 16 bits")
    return pillow().fromarray(((values * 255 + 32767) // 65535).astype(np.uint8), "L").convert("RGB")


def _from_cmyk(picture: Any) -> Any:
    profile = picture.info.get("icc_profile")
    if profile:
        with contextlib.suppress(Exception):
            from PIL import ImageCms

            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    return picture.convert("RGB")
