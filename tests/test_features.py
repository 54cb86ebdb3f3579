"""Feature files: every format, alignment by token, and errors that name the file."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_prism.errors import PRISMError
from recbole_prism.features import (
    Aligned,
    FeatureFile,
    align,
    fit_scaling,
    read_features,
    scale_features,
    write_features,
)

TOKENS = ["a", "b", "c"]
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


def write(path, suffix):
    file = path / f"f{suffix}"
    if suffix == ".safetensors":
        write_features(file, TOKENS, VECTORS, encoder="test")
    elif suffix == ".npy":
        np.save(file, VECTORS)
        (path / "f.ids.txt").write_text("\n".join(TOKENS))
    elif suffix == ".pt":
        torch.save({"item_ids": TOKENS, "features": torch.from_numpy(VECTORS)}, file)
    else:
        rows = [f"{token}\t{' '.join(map(str, vector))}" for token, vector in zip(TOKENS, VECTORS, strict=True)]
        file.write_text("\n".join(["item_id:token\tvector:float_seq", *rows]) + "\n")
    return file


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".pt", ".item"])
def test_every_format_reads_the_same(tmp_path, suffix):
    contents = read_features(write(tmp_path, suffix))
    assert contents.item_ids == TOKENS
    np.testing.assert_array_equal(contents.features, VECTORS)


def test_ids_may_have_a_byte_order_mark_and_spaces(tmp_path):
    file = write(tmp_path, ".npy")
    (tmp_path / "f.ids.txt").write_text("\ufeff" + " \r\n".join(TOKENS), encoding="utf-8")
    assert read_features(file).item_ids == TOKENS


def test_atomic_files_are_quoted_as_pandas_reads_them(tmp_path):
    (tmp_path / "f.item").write_text('\ufeffitem_id:token\tv:float_seq\n"a ""b"""\t1 2\n', encoding="utf-8")
    assert read_features(tmp_path / "f.item").item_ids == ['a "b"']


def test_metadata_and_half_precision_survive(tmp_path):
    write_features(tmp_path / "f.safetensors", TOKENS, VECTORS.astype(np.float16), encoder="e", normalized="no")
    contents = read_features(tmp_path / "f.safetensors")
    assert contents.features.dtype == np.float16
    assert contents.metadata == {"encoder": "e", "normalized": "no"}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=12, unique=True).flatmap(
        lambda tokens: st.tuples(st.just(tokens), st.permutations(tokens), st.integers(1, len(tokens)))
    )
)
def test_alignment_does_not_depend_on_row_order_or_extra_items(case):
    tokens, shuffled, kept = case
    value = {token: float(n + 1) for n, token in enumerate(tokens)}
    contents = FeatureFile(shuffled, np.array([[value[token]] for token in shuffled], np.float32))
    dataset = ["[PAD]", *tokens[:kept], "not in the file"]
    aligned = align(contents, dataset)
    assert aligned.features[:, 0].tolist() == [0.0, *[value[token] for token in tokens[:kept]], 0.0]
    assert aligned.covered.tolist() == [False, *[True] * kept, False]


def test_a_token_named_like_padding_never_reaches_row_zero():
    aligned = align(FeatureFile(["[PAD]", "a"], np.ones((2, 1), np.float32)), ["[PAD]", "a"])
    assert aligned.covered.tolist() == [False, True]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (FeatureFile(["a", "a"], np.ones((2, 1), np.float32)), r"1 duplicate item ids \(first: \['a'\]\)"),
        (FeatureFile(["a", "b"], np.array([[1], [np.nan]], np.float32)), r"1 rows hold NaN, Inf .*\['b'\]"),
        (FeatureFile(["a"], np.array([[np.inf]], np.float32)), "NaN, Inf"),
        (FeatureFile(["a"], np.array([[1e200]])), "too large numbers"),
        (FeatureFile(["a"], np.array([[1j]])), "of type complex128; must be real numbers"),
        (FeatureFile(["a"], np.array([["1"]])), "of type <U1; must be real numbers"),
        (FeatureFile(["a"], np.ones((2, 1), np.float32)), r"shape \[2, 1\] for 1 item ids"),
        (FeatureFile(["a"], np.ones(1, np.float32)), r"shape \[1\]"),
    ],
)
def test_bad_contents_are_refused_and_nothing_is_written(tmp_path, contents, message):
    with pytest.raises(PRISMError, match=message):
        write_features(tmp_path / "f.safetensors", contents.item_ids, contents.features)
    assert list(tmp_path.iterdir()) == []


def test_no_item_in_common_shows_both_sides(tmp_path):
    with pytest.raises(PRISMError, match=r"no item in common .*'a'.*'x'"):
        align(FeatureFile(TOKENS, VECTORS), ["[PAD]", "x"])


def test_corrupt_and_foreign_files_are_named(tmp_path):
    from safetensors.numpy import save_file

    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(b"not safetensors at all")
    with pytest.raises(PRISMError, match=r"corrupt\.safetensors: cannot be read"):
        read_features(corrupt)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weights": VECTORS}, foreign, metadata={"item_ids": json.dumps(TOKENS)})
    with pytest.raises(PRISMError, match="needs a tensor 'features'"):
        read_features(foreign)
    with pytest.raises(PRISMError, match="no such feature file"):
        read_features(tmp_path / "absent.safetensors")
    with pytest.raises(PRISMError, match="unknown kind of feature file"):
        read_features(tmp_path / "f.csv")
    np.save(tmp_path / "lonely.npy", VECTORS)
    with pytest.raises(PRISMError, match=r"lonely\.ids\.txt: missing"):
        read_features(tmp_path / "lonely.npy")


@pytest.mark.parametrize("values", [np.array([["1"]]), np.array([[1j]]), np.array([[1e200]])])
def test_what_are_no_numbers_of_float32_is_refused_by_name(tmp_path, values):
    np.save(tmp_path / "f.npy", values)
    (tmp_path / "f.ids.txt").write_text("a\n")
    with pytest.raises(PRISMError, match=r"f\.npy: .*(must be real|too large) numbers"):
        read_features(tmp_path / "f.npy")


def test_ids_may_be_numbers_of_an_array(tmp_path):
    torch.save({"item_ids": torch.tensor([7, 8]), "features": torch.ones(2, 3).bfloat16()}, tmp_path / "f.pt")
    assert read_features(tmp_path / "f.pt").item_ids == ["7", "8"]
    write_features(tmp_path / "f.safetensors", np.array([7, 8]), np.ones((2, 3)))
    assert read_features(tmp_path / "f.safetensors").item_ids == ["7", "8"]
    torch.save({"item_ids": ["a"], "features": torch.ones(1, 1) * 1j}, tmp_path / "f.pt")
    with pytest.raises(PRISMError, match=r"f\.pt: features are of type complex64"):
        read_features(tmp_path / "f.pt")
    torch.save({"item_ids": ["a"], "features": np.ones((1, 1))}, tmp_path / "f.pt")
    with pytest.raises(PRISMError, match=r"f\.pt: cannot be read .*'features' as a torch tensor"):
        read_features(tmp_path / "f.pt")


def test_pickles_are_not_loaded(tmp_path):
    torch.save({"item_ids": TOKENS, "features": FeatureFile(TOKENS, VECTORS)}, tmp_path / "f.pt")
    with pytest.raises(PRISMError, match="cannot be read"):
        read_features(tmp_path / "f.pt")
    np.save(tmp_path / "f.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "f.ids.txt").write_text("a")
    with pytest.raises(PRISMError, match="cannot be read"):
        read_features(tmp_path / "f.npy")


def scaled_as(aligned, kind, fit_on, length=1.0):
    return scale_features(aligned, fit_scaling(aligned, kind, fit_on, length))


@pytest.mark.parametrize(("offset", "unit"), [(2000.0, 8.0), (1e5, 1.0), (0.0, 1e-9)])
def test_standardize_depends_on_neither_unit_nor_offset(offset, unit):
    """Years, or numbers of a tiny scale: sums in float32 would lose the spread of a large table."""
    drawn = np.random.default_rng(0).normal(size=(100_000, 2))
    features = np.vstack([np.zeros((1, 2)), offset + unit * drawn]).astype(np.float32)
    covered = np.arange(len(features)) > 0
    scaled = scaled_as(Aligned(features, covered), "standardize", covered)[1:] * np.sqrt(2)
    np.testing.assert_allclose(scaled.mean(0, dtype=np.float64), 0, atol=0.02)
    np.testing.assert_allclose(scaled.std(0, dtype=np.float64), 1, atol=0.01)


def test_rounding_beside_real_dimensions_is_no_dimension():
    """As of principal components beyond the rank."""
    features = np.random.default_rng(0).normal(size=(1000, 2)) * [1, 1e-9]
    scaled = scaled_as(Aligned(features.astype(np.float32), np.ones(1000, bool)), "standardize", np.ones(1000, bool))
    assert np.abs(scaled[:, 1]).max() < 1e-6 < scaled[:, 0].std()


@pytest.mark.parametrize("value", [0.1, 1234.567, -7e-8])
def test_a_constant_dimension_of_any_value_is_zero(value):
    features = np.full((12_102, 2), value, np.float32)
    features[:, 1] = np.arange(12_102)
    covered = np.arange(len(features)) > 0
    scaled = scaled_as(Aligned(features, covered), "standardize", covered)
    np.testing.assert_allclose(scaled[:, 0], 0, atol=1e-4)


def test_standardize_is_fitted_on_covered_training_items_only():
    features = np.array([[0, 0], [1, 10], [3, 10], [100, 7], [0, 0]], np.float32)
    aligned = align(FeatureFile(["a", "b", "c"], features[1:4]), ["[PAD]", "a", "b", "c", "missing"])
    scaled = scaled_as(aligned, "standardize", np.array([False, True, True, False, True]))
    np.testing.assert_allclose(scaled[1:3, 0] * np.sqrt(2), [-1, 1])
    np.testing.assert_allclose(scaled[1:3, 1], 0)  # a constant dimension is centred, not blown up
    np.testing.assert_allclose(scaled[3, 0] * np.sqrt(2), 98)
    np.testing.assert_array_equal(scaled[[0, 4]], 0)
    longer = scaled_as(aligned, "standardize", np.array([False, True, True, False, True]), length=3.0)
    np.testing.assert_allclose(longer, 3 * scaled, rtol=1e-6)


@pytest.mark.parametrize("length", [1.0, 5.0])
def test_unit_scaling_gives_every_vector_the_length(length):
    aligned = align(FeatureFile(TOKENS, VECTORS + 1), ["[PAD]", *TOKENS])
    scaled = scaled_as(aligned, "unit", aligned.covered, length)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), np.array([0, 1, 1, 1]) * length, rtol=1e-6)


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    import os

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PRISMError, match="No space left on device"):
        write_features(tmp_path / "f.safetensors", TOKENS, VECTORS)
    assert list(tmp_path.iterdir()) == []
