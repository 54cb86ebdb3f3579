"""Statistics of a dataset, beside those the PRISM paper prints for its four."""

from __future__ import annotations

from typing import Any

# name: (users, items, interactions, average length), as printed; "items" there seems to count the padding item.
PAPER = {
    "Home": (66519, 28238, 551682, 8.3),
    "Beauty": (22363, 12102, 198502, 8.9),
    "Sports": (35598, 18358, 296337, 8.3),
    "Yelp": (287116, 148523, 4392169, 15.1),
}
_FILES = {"reviews_Home_and_Kitchen": "Home", "reviews_Beauty": "Beauty", "reviews_Sports_and_Outdoors": "Sports"}


def paper_name(source: str, reviews_file: str) -> str | None:
    """Which of the paper's datasets the raw file is, if any."""
    if source == "yelp":
        return "Yelp"
    if source == "amazon-2014":
        return next((name for start, name in _FILES.items() if reviews_file.startswith(start)), None)
    return None


def statistics(size: dict[str, int]) -> dict[str, Any]:
    """users, items, interactions, average_length (interactions a user), density."""
    users, items, interactions = size["users"], size["items"], size["interactions"]
    return {
        **size,
        "average_length": round(interactions / users, 3) if users else 0.0,
        "density": round(interactions / (users * items), 8) if users and items else 0.0,
    }


def table(found: dict[str, Any], paper: str | None) -> str:
    """Lines for a person; with the paper's row and the difference where there is one."""
    header = f"{'':12}{'users':>12}{'items':>12}{'interactions':>15}{'length':>9}"
    ours = f"{'here':12}{found['users']:>12,}{found['items']:>12,}{found['interactions']:>15,}"
    lines = [header, f"{ours}{found['average_length']:>9.2f}"]
    if paper:
        users, items, interactions, length = PAPER[paper]
        lines.append(f"{'paper':12}{users:>12,}{items:>12,}{interactions:>15,}{length:>9.2f}")
        differences = (found["users"] - users, found["items"] - items, found["interactions"] - interactions)
        lines.append("{:12}{:>+12,}{:>+12,}{:>+15,}".format("difference", *differences))
        if differences == (0, -1, 0):
            lines.append("(the paper counts the padding item)")
    return "\n".join(lines)
