"""Search spaces in RecBole's hyper file format, read without ``eval``, and drawn from by Optuna."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.paths import PROPERTIES

if TYPE_CHECKING:
    from optuna import Trial

KINDS = ("choice", "uniform", "quniform", "loguniform")


@dataclass(frozen=True)
class Parameter:
    """One line of a hyper file: ``name kind values``; of choice the options, otherwise low, high and for quniform q."""

    name: str
    kind: str
    values: tuple

    def example(self):
        """A value of the space, for checks before the first trial."""
        if self.kind == "choice":
            return self.values[0]
        return math.exp(self.values[0]) if self.kind == "loguniform" else self._whole(self.values[0])

    def draw(self, trial: Trial):
        """A value for RecBole's Config. Lists travel through Optuna as text, which RecBole reads as the list."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.name, self.values)
        if self.kind == "loguniform":  # hyperopt's: the bounds are exponents of e
            return trial.suggest_float(self.name, math.exp(self.values[0]), math.exp(self.values[1]), log=True)
        if self.kind == "uniform":
            return trial.suggest_float(self.name, *self.values)
        low, high, step = self.values
        return self._whole(trial.suggest_float(self.name, low, high, step=step))

    def _whole(self, value: float) -> int | float:
        """quniform in whole steps means whole numbers: sizes, layers."""
        whole = self.kind == "quniform" and float(value).is_integer() and self.values[2].is_integer()
        return int(value) if whole else value

    def recall(self, value):
        """What ``draw`` gave, from what Optuna keeps of it, where lists are text and whole numbers floats."""
        if isinstance(value, str) and value[:1] in "[(":
            value = ast.literal_eval(value)
        return list(value) if isinstance(value, tuple) else self._whole(value)


def find_space(name: str) -> Path:
    """A hyper file by path, or one of ours by name (``prism``). Raises PRISMError listing ours."""
    if Path(name).is_file():
        return Path(name)
    ours = our_spaces()
    if name.removesuffix(".hyper") in ours:
        return ours[name.removesuffix(".hyper")]
    raise PRISMError(f"{name}: no such hyper file{suggest(name, ours)}; recbole-prism brings {sorted(ours)}")


def our_spaces() -> dict[str, Path]:
    return {file.stem: file for file in sorted((PROPERTIES / "hyper").glob("*.hyper"))}


def read_space(path: Path) -> list[Parameter]:
    """The parameters of a hyper file. Raises PRISMError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PRISMError(f"{path}: cannot be read ({error})") from error
    space = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) < 3 or words[0].startswith("#"):
            continue
        name, kind, text = words[0], words[1], "".join(words[2:])
        where = f"{path}, line {number}"
        if name in space:
            raise PRISMError(f"{where}: {name} is there twice")
        if kind not in KINDS:
            raise PRISMError(f"{where}: kind {kind!r} is unknown{suggest(kind, KINDS)}; there are {', '.join(KINDS)}")
        space[name] = Parameter(name, kind, PARSERS[kind](where, text))
    if not space:
        raise PRISMError(f"{path}: names no parameter; write lines like `learning_rate loguniform -8,-4`")
    return list(space.values())


def _options(where: str, text: str) -> tuple:
    try:
        options = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise PRISMError(f"{where}: {text!r} is no list of values") from error
    if not isinstance(options, (list, tuple)) or not options:
        raise PRISMError(f"{where}: choice needs a list of at least one value, has {text!r}")
    simple = (str, int, float, bool, type(None))
    return tuple(option if isinstance(option, simple) else repr(option) for option in options)


def _bounds(count: int) -> Callable[[str, str], tuple]:
    def parse(where: str, text: str) -> tuple:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        sound = len(values) == count and all(map(math.isfinite, values)) and values[0] < values[1]
        if not sound or (count == 3 and values[2] <= 0):
            wanted = "low,high" if count == 2 else "low,high,step"
            raise PRISMError(f"{where}: needs {wanted} in growing order, has {text!r}")
        return values

    return parse


PARSERS: dict[str, Callable[[str, str], tuple]] = {
    "choice": _options,
    "uniform": _bounds(2),
    "quniform": _bounds(3),
    "loguniform": _bounds(2),
}
