"""``recbole-prism explain``: expert weights and deletion tests for a user or a sequence, or over many users."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_prism.errors import PRISMError
from recbole_prism.recommend.command import add_model_arguments, load_recommender, read_token, read_tokens

if TYPE_CHECKING:
    from recbole_prism.recommend.deletion import Effect, Explanation
    from recbole_prism.recommend.population import Population

CAUTION = (
    "Gate weights say how this model mixes its experts for this history. They are not measured information, not "
    "probabilities, and not shares of the score; another seed may weigh otherwise. The changes are deletion tests: "
    "what the model answers when that part is missing, which is a history it was hardly trained on."
)
BY_CONSTRUCTION = (
    "An expert of small weight adds little, so some agreement of weights and drops is there by construction."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--user", metavar="USER", help="a user token, or @FILE with one")
    whom.add_argument("--sequence", nargs="+", metavar="ITEM", help="item tokens, oldest first; @FILE: one a line")
    whom.add_argument("--all-users", action="store_true", help="distributions and faithfulness over users")
    parser.add_argument("--item", help="the item to explain (the best one not in the history)")
    parser.add_argument("--history", choices=["full", "valid", "test"], default="full", help="as in recommend (full)")
    parser.add_argument("--n-users", type=int, default=1000, help="with --all-users: how many, at random (1000)")
    parser.add_argument(
        "--others", nargs="+", metavar="MODEL", default=[], help="with --all-users: the same with other seeds"
    )
    parser.add_argument("--output", "-o", metavar="FILE.json", help="write everything as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Print the explanation."""
    output = Path(arguments.output) if arguments.output else None
    if output and output.suffix != ".json":
        raise PRISMError(f"{output}: is written as JSON; call it .json")
    report = _many(arguments) if arguments.all_users else _one(arguments)
    if output:
        from recbole_prism.features import write_atomically

        write_atomically(output, json.dumps(report, indent=1, ensure_ascii=False).encode())
    return 0


def _one(arguments: argparse.Namespace) -> dict:
    import numpy as np

    from recbole_prism.recommend.deletion import explain

    if arguments.others:
        raise PRISMError("--others compares weights over users; say --all-users")
    recommender = load_recommender(arguments)
    token = user = None
    if arguments.user is not None:
        histories = recommender.loaded.users()
        token = read_token("--user", arguments.user)
        user = histories.ids([token])[0]
        history = histories.history(user, arguments.history)
        if not len(history):
            raise PRISMError(f"user {token!r} has no {arguments.history} history")
    else:
        if arguments.history != "full":
            raise PRISMError("--history chooses what of a user's past counts; a --sequence counts as it is")
        history = np.array(recommender.catalogue.ids(read_tokens(arguments.sequence)), dtype=np.int64)
    item = None if arguments.item is None else read_token("--item", arguments.item)
    explanation = explain(recommender, history, user=user, item=item)
    print(explanation_text(explanation))
    return {"caution": CAUTION, "user": token, **dataclasses.asdict(explanation)}


def _many(arguments: argparse.Namespace) -> dict:
    from recbole_prism.recommend.population import stability, survey

    if arguments.n_users < 1:
        raise PRISMError(f"--n-users: {arguments.n_users} is not allowed; must be at least 1")
    if arguments.item:
        raise PRISMError("--item explains one history; over users the best item of each is explained")
    population = survey(load_recommender(arguments), n_users=arguments.n_users, history=arguments.history)
    report = {"caution": CAUTION, **population.summary}
    for path in arguments.others:
        other = load_recommender(argparse.Namespace(**{**vars(arguments), "model": path}))
        second = survey(other, n_users=arguments.n_users, history=arguments.history)
        report.setdefault("stability", {})[path] = stability(population, second)
    print(population_text(population, report.get("stability", {})))
    return report


def explanation_text(explanation: Explanation) -> str:
    """What a user reads about one history."""
    title = f" ({explanation.title})" if explanation.title else ""
    lines = [f"{explanation.item}{title}: score {explanation.score:.4f}, rank {explanation.rank}", ""]
    lines.append(f"{'without':<34}{'score':>10}{'log-prob.':>11}{'rank':>7}{'share':>8}{'weight':>8}")
    sections = {"expert": explanation.experts, "modality": explanation.modalities, "item": explanation.history}
    for noun, effects in sections.items():
        lines += [_effect_line(noun, effect) for effect in effects]
    if not explanation.history:
        lines.append("(the history has one item, without which there is none)")
    lines += ["", "score, log-prob.: with everything minus without it; share: of the absolute changes of its kind."]
    return "\n".join([*lines, CAUTION])


def _effect_line(noun: str, effect: Effect) -> str:
    name = f"{noun} {effect.name}{f' {effect.title}' if effect.title else ''}"
    name = name if len(name) < 34 else name[:32] + "…"
    share = "" if effect.share is None else f"{effect.share:.2f}"
    weight = "" if effect.weight is None else f"{effect.weight:.3f}"
    return (
        f"{name:<34}{effect.score:>+10.4f}{effect.log_probability:>+11.4f}{effect.rank:>7}{share:>8}{weight:>8}"
    ).rstrip()


def population_text(population: Population, stable: dict[str, dict[str, float]]) -> str:
    """What a user reads about many users."""
    summary = population.summary
    lines = [f"{summary['users']} users, their best item not in the history", ""]
    if population.experts:
        lines.append(f"{'weight of expert':<24}{'mean':>8}{'std':>8}{'5 %':>8}{'median':>8}{'95 %':>8}")
        for name, row in summary["weights"].items():
            q = row["quantiles"]
            lines.append(
                f"  {name:<22}{row['mean']:>8.3f}{row['std']:>8.3f}{q['0.05']:>8.3f}{q['0.5']:>8.3f}{q['0.95']:>8.3f}"
            )
        width = max(len(name) for name in population.experts) + 2
        lines += ["", f"{'mean weights by length':<24}" + "".join(f"{n:>{width}}" for n in population.experts)]
        for row in summary["by_history_length"]:
            label = f"{row['lengths'][0]}-{row['lengths'][1]} items ({row['users']})"
            lines.append(f"  {label:<22}" + "".join(f"{value:>{width}.3f}" for value in row["weights"].values()))
    lines += ["", f"{'drop of log-prob. without':<32}{'mean':>8}{'std':>8}{'share':>8}"]
    for name, row in summary.get("expert_drops", {}).items():
        lines.append(f"  {f'expert {name}':<30}{row['mean']:>+8.3f}{row['std']:>8.3f}")
    for name, row in summary["modalities"].items():
        drop = row["drop"]
        lines.append(f"  {f'modality {name}':<30}{drop['mean']:>+8.3f}{drop['std']:>8.3f}{row['mean_share']:>8.2f}")
    if population.experts:
        lines += ["", *_faithfulness_lines(summary["faithfulness"])]
    for path, row in stable.items():
        cells = "  ".join(f"{name} {value:+.2f}" for name, value in row.items())
        lines += ["", f"rank correlation of weights over users with {path}", f"  {cells}"]
    return "\n".join([*lines, "", CAUTION, *([BY_CONSTRUCTION] if population.experts else [])])


def _faithfulness_lines(row: dict) -> list[str]:
    if not row["users"]:
        return ["faithfulness: no user whose experts have different weights"]
    error = row["rank_correlation_standard_error"]
    plus_minus = "" if error is None else f" ± {error:.3f}"
    return [
        "faithfulness: drop without the expert of the",
        f"  highest weight {row['drop_without_highest']:+.3f}, lowest weight {row['drop_without_lowest']:+.3f}; "
        f"the highest hurts more for {row['users_where_highest_hurts_more']:.0%} of users",
        f"  rank correlation of weights and drops within a user {row['rank_correlation']:+.3f}{plus_minus}",
    ]
