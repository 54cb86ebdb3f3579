"""RecBole's reading and splitting with the same result, and without lists of Python objects per interaction.

Shapes: I interactions, G groups.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from recbole_prism.atomic import check_lines


class FastLoading:
    """In front of a RecBole dataset: the parts of it whose time and memory grow with loops over rows."""

    def _load_feat(self, filepath, source):
        """RecBole's, with pandas' parser in C where it can read the file (RecBole asks for the one in Python)."""
        import recbole.data.dataset.dataset as module

        from recbole_prism.compat import View

        pandas = module.pd
        module.pd = View(pandas, read_csv=_read_csv)
        try:
            return super()._load_feat(filepath, source)
        finally:
            module.pd = pandas

    def _grouped_index(self, group_by_list) -> Groups:
        return Groups(group_by_list)

    def _split_index_by_leave_one_out(self, grouped_index: Groups, leave_one_num: int) -> list:
        """RecBole's: each group's last rows, one to each of the last parts, as long as one row is left for the first.

        The indices are tuples, which RecBole's ``Interaction`` hands on to torch; arrays it would turn into lists.
        """
        left_out = np.minimum(leave_one_num, grouped_index.sizes - 1)
        from_end = grouped_index.from_end
        part = np.where(from_end < np.repeat(left_out, grouped_index.sizes), leave_one_num - from_end, 0)
        return [(torch.from_numpy(grouped_index.order[part == number]),) for number in range(leave_one_num + 1)]


def hook() -> None:
    """RecBole's loaders list the numbers of their rows (abstract_dataloader.py:67); a range takes no memory for it.

    Its datasets raise PRISMError naming file and line for text where a number must be, and for another encoding.
    """
    import recbole.data.dataloader.abstract_dataloader as module
    from recbole.data.dataset import Dataset

    module.list = _range_or_list  # seen by that module alone
    load = Dataset._load_feat

    @functools.wraps(load)
    def _load_feat(self, filepath, source):
        try:
            return load(self, filepath, source)
        except ValueError:
            check_lines(Path(filepath), self.config.final_config_dict)
            raise

    Dataset._load_feat = _load_feat


def _range_or_list(values=()):
    return values if isinstance(values, range) else list(values)


class Groups:
    """Rows by their group, groups in the order of their first rows; iterates over the rows [n] of each group.

    order [I]: rows, group by group; sizes [G]; from_end [I]: how many rows of its group follow each of ``order``.
    """

    def __init__(self, keys: np.ndarray) -> None:
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        group = rank[group]
        self.order = np.argsort(group, kind="stable")
        self.sizes = np.bincount(group, minlength=len(first))
        self.from_end = np.repeat(self.sizes.cumsum(), self.sizes) - np.arange(len(group)) - 1

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[np.ndarray]:
        ends = self.sizes.cumsum()
        for start, end in zip(ends - self.sizes, ends, strict=True):
            yield self.order[start:end]


def _read_csv(path, *, delimiter, engine, **options):
    """pandas' ``read_csv``; ``high`` is how its parser in Python rounds.

    Whole numbers that no integer of 64 bits holds may differ in their last bit.
    """
    import pandas as pd

    if len(delimiter) > 1:  # a regular expression, which only the parser in Python knows
        return pd.read_csv(path, delimiter=delimiter, engine=engine, **options)
    frame = pd.read_csv(path, delimiter=delimiter, engine="c", float_precision="high", **options)
    floats = [name for name, kind in options["dtype"].items() if kind == np.float64 and name in frame]
    wide = [name for name in floats if frame[name].abs().max() > 1 << 53]
    if wide:  # nanoseconds, say: the parser in Python reads a column of digits as integers, which are exact
        options = {**options, "usecols": wide, "dtype": None}
        exact = pd.read_csv(path, delimiter=delimiter, engine="c", low_memory=False, **options)
        for name in wide:
            if exact[name].dtype == np.int64:
                frame[name] = exact[name].astype(np.float64)
    return frame
