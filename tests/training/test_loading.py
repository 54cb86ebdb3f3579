"""What replaces loops in RecBole's loading gives RecBole's result."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data.dataset import SequentialDataset
from recbole.data.dataset.dataset import Dataset

from recbole_prism.training.dataset import PrefixDataset
from recbole_prism.training.loading import FastLoading, Groups, _read_csv

keys = st.lists(st.integers(0, 6), max_size=40)


@given(keys=keys)
def test_groups_are_those_of_recbole(keys):
    expected = list(Dataset._grouped_index(None, np.array(keys, dtype=np.int64)))
    groups = Groups(np.array(keys, dtype=np.int64))
    assert [group.tolist() for group in groups] == expected and len(groups) == len(expected)


@given(keys=keys, left_out=st.integers(1, 3))
def test_leaving_out_is_that_of_recbole(keys, left_out):
    keys = np.array(keys, dtype=np.int64)
    expected = Dataset._split_index_by_leave_one_out(None, Dataset._grouped_index(None, keys), left_out)
    parts = FastLoading()._split_index_by_leave_one_out(Groups(keys), left_out)
    assert [part[0].tolist() for part in parts] == expected


def fits_an_integer(number) -> bool:
    """False for digits alone beyond 64 bits, which the parser in Python rounds in a way of its own."""
    text = str(number)
    return not text.lstrip("-").isdigit() or -(1 << 63) <= int(text) < 1 << 63


nanoseconds = st.integers(-(1 << 63), (1 << 63) - 1)
decimals = st.decimals(allow_nan=False, allow_infinity=False).filter(fits_an_integer)


@given(st.lists(st.floats(allow_nan=False) | decimals | nanoseconds, min_size=1) | st.lists(nanoseconds, min_size=1))
@example([1532109999999999999, 1532109999999999744])
def test_numbers_are_read_to_the_bit(tmp_path_factory, numbers):
    file = tmp_path_factory.getbasetemp() / "numbers.inter"
    file.write_text("x:float\n" + "".join(f"{number}\n" for number in numbers))
    options = {"delimiter": "\t", "usecols": ["x:float"], "dtype": {"x:float": np.float64}}
    expected = pd.read_csv(file, engine="python", **options)
    pd.testing.assert_frame_equal(_read_csv(file, engine="python", **options), expected, check_exact=True)


AWKWARD = """\
user_id:token\titem_id:token\trating:float\ttags:token_seq\tsizes:float_seq
u1\ti1\t0.1\tred blue\t1 2.5
007\tNA\t3.141592653589793\t\t1e-3
u1\t"quoted ""x"\t\tred\t
 u3 \ti 4\t1e300\tnull\t0.30000000000000004
u5\tü\t0.1234567890123456789\ta\t1
"""


@pytest.mark.parametrize("text", [AWKWARD, AWKWARD.splitlines()[0] + "\nu\ti\t1\ta\t1\n"], ids=["awkward", "one row"])
def test_tables_are_read_as_recbole_reads_them(text, data_path, settings):
    folder = data_path / "odd"
    folder.mkdir()
    (folder / "odd.inter").write_text(text, encoding="utf-8")
    config = Config(model="PRISM_SASRec", dataset="tiny", config_dict={**settings, "load_col": None})
    frames = []
    for kind in (SequentialDataset, PrefixDataset):
        dataset = kind.__new__(kind)
        dataset.config, dataset.logger = config, logging.getLogger()
        dataset.field2source, dataset.field2type, dataset.field2seqlen, dataset.field2bucketnum = {}, {}, {}, {}
        frames.append((dataset._load_feat(str(folder / "odd.inter"), "inter"), dataset.field2seqlen))
    (expected, lengths), (got, our_lengths) = frames
    pd.testing.assert_frame_equal(got, expected, check_exact=True)
    assert lengths == our_lengths
