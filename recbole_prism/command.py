"""What our commands share: errors in one line, exit codes, and names of what RecBole has without importing it."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from recbole_prism.errors import PRISMError


def guarded(work: Callable[[], int], *, debug: bool, silent: bool = False) -> int:
    """Run a command; bad input becomes one line on stderr and exit code 1, a traceback only with ``debug``.

    ``silent``: the program that started this one prints the line.
    """
    try:
        return work()
    except KeyboardInterrupt:
        if not silent:
            print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        elif not silent:
            print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error: Exception) -> str:
    text = str(error).strip() or _where(error)
    if type(error).__name__ == "ProcessRaisedException":  # a spawned process: its traceback ends with the error
        text = re.sub(r"^[\w.]*PRISMError: ", "", text.splitlines()[-1])
    elif not isinstance(error, PRISMError):
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    return " ".join(text.split())


def _where(error: Exception) -> str:
    """The line that raised an error without words, such as the assertions of RecBole's CPR models."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""


def model_and_dataset(arguments: argparse.Namespace, settings: Mapping) -> tuple[str, str]:
    """Those of the command line, else of the yaml files, as in RecBole; else PRISM_SASRec on ml-100k."""
    model = arguments.model or settings.get("model") or "PRISM_SASRec"
    return str(model), str(arguments.dataset or settings.get("dataset") or "ml-100k")


def recbole_models() -> dict[str, str]:
    """Names of RecBole's models -> kind (general, sequential, ...), read off its files without importing torch."""
    root = Path(importlib.util.find_spec("recbole").origin).parent / "model"
    names = {}
    for file in sorted(root.glob("*_recommender/*.py")):
        for name in re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if name.lower() == file.stem:
                names[name] = file.parent.name.removesuffix("_recommender")
    return names
