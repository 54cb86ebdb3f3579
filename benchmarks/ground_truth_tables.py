"""Tables, in markdown, and a plot of what ``ground_truth.py`` measured.

python benchmarks/ground_truth_tables.py results.jsonl [--plot docs/images/ground_truth.svg]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

SHORT = {"unique_image": "image", "unique_text": "text", "synergy": "syn.", "redundancy": "red."}
PLOTTED = ("prism", "prism+residual")
WIDTH, HEIGHT, LEFT, TOP = 250, 74, 150, 40  # of a panel; margins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    runs = defaultdict(list)  # (kind, group, fusion) -> results of the seeds
    right = {}
    for line in args.results.read_text().splitlines():
        result = json.loads(line)
        for group, values in result["groups"].items():
            runs[result["kind"], group, result["fusion"]].append(values)
            right[result["kind"], group] = result["right"][group]
    print(experts_table(runs, right), "\n")
    print(recall_table(runs))
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        args.plot.write_text(plot(runs, right), encoding="utf-8")


def experts_table(runs: dict, right: dict) -> str:
    """Weight and drop of each expert, of fusions that have experts; ``won`` counts seeds."""
    lines = ["| users | fusion | " + " | ".join(SHORT.values()) + " | recall | right one wins |", "|" + "---|" * 7]
    for (kind, group, fusion), seeds in runs.items():
        if not set(SHORT) <= set(seeds[0]["weight"]):
            continue
        cells = []
        for name in SHORT:
            weight = spread([seed["weight"][name] for seed in seeds])
            cell = f"{weight}; {spread([seed['expert_drop'][name] for seed in seeds])}"
            cells.append(f"**{cell}**" if name == right[kind, group] else cell)
        won = ""
        if right[kind, group]:
            wins = [
                (wins_by(seed, "weight", right[kind, group]), wins_by(seed, "expert_drop", right[kind, group]))
                for seed in seeds
            ]
            won = f"weight {sum(w for w, _ in wins)}, drop {sum(d for _, d in wins)} of {len(seeds)}"
        label = kind if kind == group else f"{kind}: {group}"
        recall = spread([seed["recall"] for seed in seeds])
        lines.append(f"| {label} | `{fusion}` | " + " | ".join(cells) + f" | {recall} | {won} |")
    return "\n".join(lines)


def wins_by(seed: dict, measure: str, expert: str) -> bool:
    """Whether the expert has the most, and where it is a drop, one of at least .05."""
    values = seed[measure]
    return max(values, key=values.get) == expert and values[expert] >= 0.05


def recall_table(runs: dict) -> str:
    """Recall of every fusion, and what it loses without the image / without the text."""
    columns = list(dict.fromkeys((kind, group) for kind, group, _ in runs))
    fusions = list(dict.fromkeys(fusion for _, _, fusion in runs))
    heads = [kind if kind == group else f"{kind}: {group}" for kind, group in columns]
    lines = ["| fusion | " + " | ".join(heads) + " |", "|" + "---|" * (len(columns) + 1)]
    for fusion in fusions:
        cells = []
        for kind, group in columns:
            seeds = runs.get((kind, group, fusion))
            if not seeds:
                cells.append("")
                continue
            drops = "/".join(f"{np.mean([s['modality_drop'][m] for s in seeds]):.2f}" for m in ("image", "text"))
            cells.append(f"{spread([seed['recall'] for seed in seeds])} ({drops})")
        lines.append(f"| `{fusion}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds; 0 for one seed."""
    return f"{np.mean(values):.2f}±{np.std(values, ddof=1) if len(values) > 1 else 0:.2f}"


def plot(runs: dict, right: dict) -> str:
    """An SVG: a panel per group of users and fusion, a bar for each expert's weight and, narrower, its drop."""
    rows = [key for key in dict.fromkeys((kind, group) for kind, group, _ in runs) if right[key]]
    size = (LEFT + WIDTH * len(PLOTTED), TOP + HEIGHT * len(rows) + 20)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        'font-family="sans-serif" font-size="11">'
    ]
    parts.append(f'<rect width="{size[0]}" height="{size[1]}" fill="white"/>')
    for column, fusion in enumerate(PLOTTED):
        parts.append(f'<text x="{LEFT + column * WIDTH}" y="16" font-weight="bold">{fusion}</text>')
        parts.append(f'<text x="{LEFT + column * WIDTH}" y="30">wide: weight, narrow: drop without it</text>')
        for row, (kind, group) in enumerate(rows):
            seeds = runs.get((kind, group, fusion))
            if seeds:
                parts += panel(seeds, right[kind, group], LEFT + column * WIDTH, TOP + row * HEIGHT)
    for row, (kind, group) in enumerate(rows):
        for n, text in enumerate([kind] if kind == group else [kind, group]):
            parts.append(f'<text x="6" y="{TOP + row * HEIGHT + 28 + 14 * n}">{text}</text>')
    return "\n".join([*parts, "</svg>\n"])


def panel(seeds: list[dict], right: str, x: float, y: float) -> list[str]:
    """Bars of one panel; the right expert's are filled dark; lines reach from the least to the greatest seed."""
    full, parts = HEIGHT - 24, []
    for n, name in enumerate(SHORT):
        for measure, offset, width in (("weight", 0, 22), ("expert_drop", 26, 8)):
            values = np.clip([seed[measure][name] for seed in seeds], 0, 1)
            left, height = x + n * 56 + offset, full * values.mean()
            colour = "#1f5fa8" if name == right else "#b8b8b8"
            parts.append(
                f'<rect x="{left}" y="{y + full - height:.1f}" width="{width}" height="{height:.1f}" fill="{colour}"/>'
            )
            low, high = (y + full * (1 - v) for v in (values.min(), values.max()))
            middle = left + width / 2
            parts.append(f'<line x1="{middle}" x2="{middle}" y1="{low:.1f}" y2="{high:.1f}" stroke="black"/>')
        parts.append(f'<text x="{x + n * 56}" y="{y + full + 12}">{SHORT[name]}</text>')
    parts.append(f'<line x1="{x}" x2="{x + 214}" y1="{y + full}" y2="{y + full}" stroke="black"/>')
    return parts


if __name__ == "__main__":
    main()
