"""Text of a shop as a person would read it, and the template that joins fields to one text."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from recbole_prism.errors import PRISMError

_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?(</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<!--.*?(?:-->|\Z)|<!doctype[^<>]*>", re.DOTALL | re.IGNORECASE)
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\ufeff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

# Each [segment] vanishes, punctuation and all, when one of its fields is empty.
DEFAULT_TEMPLATE = "[{title}. ][{brand}. ][{categories}. ][{description}]"
_SEGMENT = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_FIELD = re.compile(r"\{\s*([^{}]*?)\s*\}")  # any name that a column may have


def clean_text(value: Any, joiner: str = " ") -> str:
    """Plain text of a string, number or (nested) list: entities resolved, tags dropped, white space single.

    Entities are resolved twice, since Amazon's files hold ``&amp;amp;``; objects and anything else become ''.
    """
    if isinstance(value, (list, tuple)):
        return joiner.join(part for part in (clean_text(element, joiner) for element in value) if part)
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, float) and value != value:
        return ""
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str):
        return ""
    text = value
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    return _SPACE.sub(" ", _SURROGATE.sub("", text)).strip()


def parse_price(value: Any) -> float | None:
    """``3.17``, ``'$1,299.00'`` -> a number; a range ``'$3 - $9'``, ``'—'`` or nonsense -> None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        number = float(value)
    else:
        match = re.fullmatch(r"\s*(?:from )?[$€£]?\s*(\d{1,9}(?:,\d{3})*(?:\.\d+)?)\s*", str(value))
        if not match:
            return None
        number = float(match[1].replace(",", ""))
    return number if 0 <= number < 1e12 else None


class Template:
    """A text template such as ``[{title}. ][By {brand}. ]{description}``.

    ``{field}`` is replaced by the cleaned field, a ``[segment]`` is left out whole when one of its fields is empty.

    Raises:
        PRISMError: unbalanced brackets, no field at all, or a field outside ``available``.
    """

    def __init__(self, template: str, available: set[str] | None = None):
        self.template = template
        self.segments: list[tuple[bool, str]] = []
        position = 0
        for match in _SEGMENT.finditer(template):
            if match.start() != position:
                break
            position = match.end()
            optional = match[1] is not None
            self.segments.append((optional, match[1] if optional else match[2]))
        if position != len(template):
            raise PRISMError(f"text template {template!r}: brackets do not pair up at character {position + 1}")
        self.fields = [name for _, segment in self.segments for name in _FIELD.findall(segment)]
        if not self.fields:
            raise PRISMError(f"text template {template!r}: names no {{field}}")
        unknown = sorted(set(self.fields) - available) if available is not None else []
        if unknown:
            raise PRISMError(f"text template names unknown fields {unknown}; available: {sorted(available or ())}")

    def fill(self, values: Mapping[str, str]) -> str:
        """The text; '' when every field is empty. Values are inserted as they are, never interpreted."""
        if not any(values.get(name) for name in self.fields):
            return ""
        parts = []
        for optional, segment in self.segments:
            if optional and not all(values.get(name) for name in _FIELD.findall(segment)):
                continue
            parts.append(_FIELD.sub(lambda match: values.get(match[1], ""), segment))
        return _SPACE.sub(" ", "".join(parts)).strip()
