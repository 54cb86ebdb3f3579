"""``recbole-prism models``: every backbone, what PRISM on it supports, and which ones cannot be wrapped."""

from __future__ import annotations

import argparse
import json

from recbole_prism.models.table import BACKBONES, FAMILIES, REFUSED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "markdown", "json"), default="text", help="how to print (text)")


def main(arguments: argparse.Namespace) -> int:
    """Print the table; needs neither torch nor RecBole."""
    print({"text": as_text, "markdown": as_markdown, "json": as_json}[arguments.format]())
    return 0


def rows() -> list[dict[str, str]]:
    """One dict per backbone, in the order of the table."""
    from recbole_prism.training.modes import PLAIN

    return [
        {
            "backbone": name,
            "training": "packed, rows" if name in PLAIN else "rows",
            "losses": ", ".join((*backbone.losses, "sampled") if name in PLAIN else backbone.losses),
            "scopes": ", ".join(backbone.scopes),
            "causal": "yes" if backbone.causal else "no",
            "content scores": "yes" if backbone.content else "no",
            "needs": backbone.needs,
        }
        for name, backbone in BACKBONES.items()
    ]


def as_text() -> str:
    lines = [f"{' / '.join(f'{family}_<backbone>' for family in FAMILIES)}; the first scope is the default.", ""]
    table = rows()
    columns = list(table[0])
    widths = {c: max(len(c), *(len(row[c]) for row in table)) for c in columns}
    for row in [{c: c for c in columns}, *table]:
        lines.append("  ".join(row[c].ljust(widths[c]) for c in columns).rstrip())
    lines += ["", "Cannot be wrapped:"] + [f"  {name}: {reason}" for name, reason in REFUSED.items()]
    return "\n".join(lines)


def as_markdown() -> str:
    table = rows()
    columns = list(table[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(row[c] for c in columns) + " |" for row in table]
    lines += ["", "| cannot be wrapped | because |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {reason} |" for name, reason in REFUSED.items()])


def as_json() -> str:
    return json.dumps({"models": rows(), "refused": REFUSED}, indent=2)
