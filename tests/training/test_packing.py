"""Windows and batches: every target once, nothing from the future, nothing of validation or test."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.utils import get_trainer

from recbole_prism.mixin import prefix_sum
from recbole_prism.training.batches import PackedBatches
from recbole_prism.training.dataset import PLACE, PrefixDataset
from recbole_prism.training.packing import Sequences, Windows, cut_rows, cut_windows, pack

lengths = st.lists(st.integers(1, 70), min_size=1, max_size=12)


@given(targets=lengths, max_length=st.integers(1, 20), data=st.data())
def test_windows_train_each_target_once_from_its_own_past(targets, max_length, data):
    stride = data.draw(st.integers(1, max_length))
    offset = data.draw(st.integers(0, stride - 1))
    first = np.cumsum([0] + [n + 1 for n in targets[:-1]])
    windows = cut_windows(first, np.array(targets), max_length, stride, offset)
    seen = Counter()
    for start, length, skip in zip(*windows, strict=True):
        assert 1 <= length <= max_length and 0 <= skip < length
        user = np.searchsorted(first, start, side="right") - 1
        assert start + length <= first[user] + targets[user]
        for step in range(skip, length):
            target = start + step + 1
            seen[target] += 1
            # as much of the past as RecBole's row has, or what a window leaves of it
            past, wanted = step + 1, min(target - first[user], max_length)
            assert past == wanted or past > max_length - stride - offset
    expected = [f + t for f, n in zip(first, targets, strict=True) for t in range(1, n + 1)]
    assert seen == Counter(expected)


def test_rows_are_recboles():
    """Two users of 3 and 6 targets after their first items 10 and 20, four inputs at most."""
    rows = cut_rows(np.array([10, 20]), np.array([3, 6]), 4)
    assert rows.start.tolist() == [10, 10, 10, 20, 20, 20, 20, 21, 22]
    assert rows.length.tolist() == [1, 2, 3, 1, 2, 3, 4, 4, 4]
    assert (rows.skip == rows.length - 1).all()


def test_stride_one_gives_the_rows_of_recbole_beyond_the_first_window():
    windows = cut_windows(np.array([0]), np.array([7]), 4, 1)
    assert [w.tolist() for w in windows] == [[0, 1, 2, 3], [4, 4, 4, 4], [0, 3, 3, 3]]


def test_a_sequence_that_fits_is_one_window_whatever_the_offset():
    windows = cut_windows(np.array([0, 10]), np.array([4, 5]), 4, 4, 2)
    assert [w.tolist() for w in windows] == [[0, 10, 11], [4, 2, 4], [0, 0, 1]]


@pytest.mark.parametrize("offset", [True, False])
def test_windows_of_long_histories_are_cut_elsewhere_each_epoch_if_asked(build, offset):
    config, model, loaders = build("PRISM_SASRec", MAX_ITEM_LIST_LENGTH=4, shuffle=False, window_offset=offset)
    trainer = get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model)
    cuts = {tuple(trainer._packed_batches(loaders[0], epoch).windows.start.tolist()) for epoch in range(12)}
    assert (len(cuts) > 1) == offset


def make_sequences(counts, trained_share: float, seed: int) -> Sequences:
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(len(counts)), counts)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    trained = rng.random(len(users)) < trained_share
    trained[first] = False
    last = [np.flatnonzero(trained & (users == u)).max(initial=-1) for u in range(len(counts))]
    kept = [u for u, place in enumerate(last) if place >= 0]
    starts = first[kept]
    return Sequences(rng.integers(1, 50, len(users)), users, trained, starts, np.array(last)[kept] - starts)


@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=15),
    share=st.sampled_from([0.3, 0.9, 1.0]),
    batch_size=st.integers(1, 60),
    world_size=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_an_epoch_trains_each_target_of_any_split_once_over_all_processes(counts, share, batch_size, world_size, epoch):
    sequences = make_sequences(counts, share, seed=epoch)
    places, n_batches = [], set()
    for rank in range(world_size):
        batches = PackedBatches(
            sequences, batch_size=batch_size, max_length=10, stride=5, epoch=epoch, seed=3, random_offset=True,
            rank=rank, world_size=world_size,
        )  # fmt: skip
        got = list(batches)
        n_batches.add(len(got))
        assert len(got) == len(batches)
        for batch in got:
            assert len(batch) == len(batch.targets) > 0
            assert (sequences.items[batch.target_index] == batch.targets.numpy()).all()
            previous = batch.selected(batch.items).numpy()
            assert (sequences.items[batch.target_index - 1] == previous).all()
            assert len(batch) <= batch_size / world_size + 20
            assert (batch.weight is None) == (world_size == 1)
            places += batch.target_index.tolist() if batch.weight != 0 else []
    assert len(n_batches) == 1, "processes must make the same number of steps"
    assert sorted(places) == np.flatnonzero(sequences.trained).tolist()


def test_prefix_sums_stay_within_their_window():
    items = np.arange(1, 40)
    batch = pack(
        items, Windows(np.array([0, 5, 20]), np.array([4, 9, 11]), np.array([0, 0, 0])), np.ones(39, bool), 3.0
    )
    x = torch.randn(len(batch.items), 2, dtype=torch.float64)
    bounds = np.concatenate([[0], np.cumsum(batch.lengths)])
    expected = torch.cat([x[a:b].cumsum(0) for a, b in zip(bounds[:-1], bounds[1:], strict=True)])
    torch.testing.assert_close(batch.sum_prefixes(x), expected)


@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.7, 0.2, 0.1]}, {"LS": "valid_only"}])
def test_no_target_of_validation_or_test_is_ever_trained(build, split):
    eval_args = {"split": split, "order": "TO", "group_by": "user", "mode": "full"}
    config, _, loaders = build("PRISM_SASRec", eval_args=eval_args)
    train, valid, test = (loader._dataset for loader in loaders)
    assert isinstance(train, PrefixDataset)
    batches = PackedBatches(train.sequences(), batch_size=64, max_length=10, stride=5, epoch=0, seed=0)
    trained = np.concatenate([batch.target_index for batch in batches])
    held_out = np.concatenate([part.inter_feat[PLACE].numpy() for part in (valid, test) if len(part)])
    assert sorted(trained) == sorted(train.inter_feat[PLACE].tolist())
    assert not set(trained) & set(held_out)
    if "LS" in split:  # nor is it an input of anything trained: it comes after all of that
        assert not set(trained - 1) & set(held_out)


@pytest.mark.parametrize("training", [True, False])
def test_sums_are_exact_under_autocast(training):
    """bfloat16 holds whole numbers up to 256 alone."""
    sequences = np.arange(1, 601)
    batch = pack(sequences, Windows(np.array([0]), np.array([600]), np.array([599])))
    ones = torch.ones(600, 1, requires_grad=training)
    with torch.set_grad_enabled(training), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(batch.sum_prefixes(ones).detach().flatten(), torch.arange(1.0, 601))
        assert torch.equal(prefix_sum(ones[None]).detach().flatten(), torch.arange(1.0, 601))
