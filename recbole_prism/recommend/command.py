"""``recbole-prism recommend``: top-k items for users or for a sequence of items."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_prism.errors import PRISMError

if TYPE_CHECKING:
    from recbole_prism.recommend.recommender import Chunk, Recommender


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What every verb that uses a trained model shares."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint of RecBole (saved/...pth) or an exported bundle")
    parser.add_argument("--data-path", help="where the checkpoint's dataset is, if not where it was in training")
    parser.add_argument("--title-field", help="field of the .item file that holds titles (found by name)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--user", nargs="+", metavar="USER", help="user tokens; @FILE: one a line; @@x: the token @x")
    whom.add_argument("--all-users", action="store_true", help="every user who has a history")
    whom.add_argument("--sequence", nargs="+", metavar="ITEM", help="item tokens, oldest first; @FILE: one a line")
    parser.add_argument("-k", type=int, help="how many items (10, or all of --only if these are fewer)")
    parser.add_argument("--seen", choices=["keep", "drop"], default="drop", help="items of the history (drop)")
    parser.add_argument(
        "--history",
        choices=["full", "valid", "test"],
        default="full",
        help="all a user did, or only what RecBole's protocol shows for validation or test (full)",
    )
    parser.add_argument("--only", nargs="+", metavar="ITEM", help="recommend only these; @FILE as above")
    parser.add_argument("--exclude", nargs="+", metavar="ITEM", default=[], help="never these; @FILE as above")
    parser.add_argument(
        "--new-items",
        nargs="+",
        metavar="MODALITY=FILE",
        help="feature files of items unknown at training time, which then can be recommended",
    )
    parser.add_argument(
        "--new-item-spread",
        type=float,
        metavar="S",
        help="0 to 1: how easily new items come before known ones (0: their embeddings are as predicted)",
    )
    parser.add_argument("--output", "-o", metavar="FILE", help="write a .csv or .parquet file instead of printing")
    parser.add_argument("--format", choices=["text", "csv", "json"], default="text", help="what is printed (text)")


def main(arguments: argparse.Namespace) -> int:
    """Print or write recommendations."""
    from recbole_prism.recommend.writing import WRITERS, table

    output = Path(arguments.output) if arguments.output else None
    if output and output.suffix not in WRITERS:
        raise PRISMError(f"{output}: unknown kind of table; known: {', '.join(sorted(WRITERS))}")
    recommender = load_recommender(arguments)
    new_items = dict(_assignment(text) for text in arguments.new_items or ())
    if arguments.new_item_spread is not None and not new_items:
        raise PRISMError("--new-item-spread: no new items are named; add --new-items MODALITY=FILE")
    if new_items:
        recommender = recommender.with_new_items(new_items, arguments.new_item_spread or 0.0)
    only = None if arguments.only is None else read_tokens(arguments.only)
    exclude = read_tokens(arguments.exclude)
    options = {"k": arguments.k, "seen": arguments.seen, "only": only, "exclude": exclude}
    if arguments.sequence:
        if arguments.history != "full":
            raise PRISMError("--history chooses what of a user's past counts; a --sequence counts as it is")
        chunks = iter([recommender.chunk_for_sequence(read_tokens(arguments.sequence), **options)])
    else:
        users = None if arguments.all_users else read_tokens(arguments.user)
        chunks = recommender.stream(users, history=arguments.history, **options)
    if output is None:
        for first, chunk in enumerate(chunks):
            PRINTERS[arguments.format](recommender, chunk, first == 0)
        return 0
    count, most = 0, 0
    with table(output) as append:
        for chunk in chunks:
            rows = _rows(recommender, chunk)
            append(rows)
            most = max([most, *(rank for _, rank, *_ in rows)])
            count += len(chunk.users)
    print(f"{output}: {count} user{'s' if count != 1 else ''}, up to {most} item{'s' if most != 1 else ''} each")
    return 0


def load_recommender(arguments: argparse.Namespace) -> Recommender:
    """From the arguments of ``add_model_arguments``."""
    from recbole_prism.recommend.recommender import Recommender

    return Recommender.load(
        arguments.model, data_path=arguments.data_path, title_field=arguments.title_field, device=arguments.device
    )


def read_tokens(arguments: list[str]) -> list[str]:
    """Tokens as given, with every @FILE replaced by its lines; ``@@x`` is the token ``@x``.

    Raises PRISMError if a file is unreadable or empty.
    """
    tokens: list[str] = []
    for argument in arguments:
        if argument[:1] != "@" or argument[:2] == "@@":
            tokens.append(argument.removeprefix("@"))
            continue
        try:
            lines = Path(argument[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PRISMError(f"{argument[1:]}: cannot be read ({error})") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise PRISMError(f"{argument[1:]}: holds no token; write one a line")
        tokens += found
    return tokens


def read_token(option: str, argument: str) -> str:
    """The same for an option that names one."""
    tokens = read_tokens([argument])
    if len(tokens) > 1:
        raise PRISMError(f"{option}: {argument[1:]} holds {len(tokens)} tokens, and one is explained at a time")
    return tokens[0]


def _assignment(text: str) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise PRISMError(f"{text!r}: not understood; new items are named as MODALITY=FILE")
    return name, file


def _rows(recommender: Recommender, chunk: Chunk) -> list[tuple]:
    return [
        (user, rank, *found)
        for user, row in zip(chunk.users, recommender.named(chunk), strict=True)
        for rank, found in enumerate(row, 1)
    ]


def _print_text(recommender: Recommender, chunk: Chunk, first: bool) -> None:
    for user, row in zip(chunk.users, recommender.named(chunk), strict=True):
        width = max((len(found.item) for found in row), default=4)
        if user:
            print(f"user {user}")
        for rank, found in enumerate(row, 1):
            print(f"  {rank:>3}  {found.item:<{width}}  {found.score:>9.4f}  {found.title}".rstrip())


def _print_csv(recommender: Recommender, chunk: Chunk, first: bool) -> None:
    from recbole_prism.recommend.writing import COLUMNS

    writer = csv.writer(sys.stdout, lineterminator="\n")
    if first:
        writer.writerow(COLUMNS)
    writer.writerows(_rows(recommender, chunk))


def _print_json(recommender: Recommender, chunk: Chunk, first: bool) -> None:
    """One object a line and user."""
    for user, row in zip(chunk.users, recommender.named(chunk), strict=True):
        found = [item._asdict() for item in row]
        print(json.dumps({"user": user, "items": found} if user else {"items": found}, ensure_ascii=False))


PRINTERS = {"text": _print_text, "csv": _print_csv, "json": _print_json}
