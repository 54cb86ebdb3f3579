"""A picture sheet: each line an item and its neighbours, so that a person sees whether features fit the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_prism.prepare.files import atomic_write
from recbole_prism.prepare.pictures import Unusable, decode, pillow

_SIDE, _TEXT, _GAP = 128, 28, 8  # pixels


def draw_sheet(
    path: Path,
    lines: Sequence[Sequence[tuple[str, float]]],
    files: Mapping[str, Sequence[Path]],
    titles: Mapping[str, str],
) -> None:
    """Write a JPEG. lines: per item [(item id, cosine), ...], the item itself first; missing pictures stay grey."""
    from PIL import ImageDraw

    columns = max(map(len, lines))
    sheet = pillow().new("RGB", (columns * (_SIDE + _GAP) + _GAP, len(lines) * (_SIDE + _TEXT + _GAP) + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        for column, (item, score) in enumerate(line):
            left, top = _GAP + column * (_SIDE + _GAP), _GAP + row * (_SIDE + _TEXT + _GAP)
            pen.rectangle(
                (left, top, left + _SIDE, top + _SIDE), fill=(225, 225, 225), outline="black" if not column else None
            )
            if thumbnail := _thumbnail(files.get(item, ())):
                sheet.paste(thumbnail, (left + (_SIDE - thumbnail.width) // 2, top + (_SIDE - thumbnail.height) // 2))
            label = _plain(titles.get(item) or item)[:20]
            pen.text((left, top + _SIDE + 2), label, fill="black")
            pen.text(
                (left, top + _SIDE + 14), _plain(item)[:20] if not column else f"{score:.3f}", fill=(110, 110, 110)
            )
    with atomic_write(path, "wb") as stream:
        sheet.save(stream, "JPEG", quality=85)


def _thumbnail(files: Sequence[Path]) -> Any:
    for file in files:
        try:
            picture, _ = decode(file)
        except Unusable:
            continue
        picture.thumbnail((_SIDE, _SIDE))
        return picture
    return None


def _plain(text: str) -> str:
    """Pillow's built-in font knows Latin-1 only."""
    return text.encode("latin-1", "replace").decode("latin-1")
