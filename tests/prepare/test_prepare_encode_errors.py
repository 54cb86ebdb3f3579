"""What `encode` refuses, and encoders other than open_clip."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from recbole_prism.errors import PRISMError
from recbole_prism.prepare.encode import encode_dataset
from recbole_prism.prepare.files import sha256
from tests.prepare import tiny_clip  # noqa: F401  skips without open_clip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-B-23"}, "no such model.*did you mean"),
        ({"model": "org/name"}, "the name of an architecture"),
        ({"pretrained": None}, "--pretrained is needed"),
        ({"pretrained": "nowhere.pt"}, "neither a file nor one of"),
        ({"encoder": "clop"}, "unknown encoder 'clop'.*available"),
        ({"precision": "fp8"}, "one of"),
        ({"modalities": ["audio"]}, "not \\['audio'\\]"),
        ({"device": "cuda:99"}, "device 'cuda:99': "),
        ({"batchsize": 1}, "unknown options"),
        ({"feature_name": "../x", "modalities": ["text"]}, "--feature-name"),
        ({"batch_size": 0}, "--batch-size 0: 1 or more"),
        ({"batch_size": "x"}, "--batch-size x: 1 or more"),
        ({"workers": -1}, "--workers -1: 0 or more"),
        ({"modality": "text"}, "unknown options \\['modality'\\] \\(did you mean 'modalities'"),
    ],
)
def test_errors_say_what_would_be_right(dataset_of, options, message):
    with pytest.raises(PRISMError, match=message):
        dataset_of({"a": "x"}, {}).encode(**options)


def test_one_modality_may_be_a_plain_string(dataset_of):
    assert set(dataset_of({"a": "x"}, {"a": [b"none"]}).encode(modalities="text")) == {"text"}


def test_a_checkpoint_of_another_model_or_a_pickle_is_refused(dataset_of, tmp_path):
    import torch

    d = dataset_of({"a": "x"}, {})
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(PRISMError, match="other.pt: no checkpoint for"):
        d.encode(pretrained=str(tmp_path / "other.pt"))

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(PRISMError, match="evil.pt: no checkpoint for"):
        d.encode(pretrained=str(tmp_path / "evil.pt"))
    assert not (tmp_path / "owned").exists()


def test_the_users_own_vectors(dataset_of, tmp_path):
    d = dataset_of({"a": "x"}, {})
    np.save(tmp_path / "v.npy", np.array([[3.0, 4.0], [0.0, 2.0]]))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    options = {"encoder": "vectors", "vectors": str(tmp_path / "v.npy"), "ids": str(tmp_path / "ids.txt")}
    d.encode(**options, modalities=["audio"])
    found, metadata = d.features("audio")
    np.testing.assert_allclose(found["a"], [0.6, 0.8], atol=1e-6)
    assert metadata["revision"] == f"sha256:{sha256(tmp_path / 'v.npy')}"
    with pytest.raises(PRISMError, match="needs --vectors FILE"):
        d.encode(encoder="vectors")
    with pytest.raises(PRISMError, match="dataset 'dd': no .*see `recbole-prism prepare`"):  # and no folder is made
        encode_dataset("dd", data_path=d.folder.parent, modalities=["audio"], **options)
    assert not (d.folder.parent / "dd").exists()


@pytest.fixture
def vectors_of(dataset_of, tmp_path):
    """vectors_of(rows, ids, **options) -> stored features of a dataset with the items a and b."""
    d = dataset_of({"a": "x"}, {})
    (d.folder / "d.inter").write_text("user_id:token\titem_id:token\nu\ta\nu\tb\n")

    def encode(rows, ids=("a", "b"), **options):
        np.save(tmp_path / "v.npy", np.array(rows))
        (tmp_path / "ids.txt").write_text("\n".join(ids))
        files = {"vectors": str(tmp_path / "v.npy"), "ids": str(tmp_path / "ids.txt")}
        report = d.encode(encoder="vectors", modalities=["audio"], **files, **options)["audio"]
        return d.features("audio")[0], report

    return encode


def test_vectors_of_another_dataset_are_refused(vectors_of):
    with pytest.raises(PRISMError, match=r"v.npy: no id is that of an item in .*d.inter \(ids: \['c', 'e'\]"):
        vectors_of([[1.0], [2.0]], ["c", "e"])
    report = vectors_of([[1.0], [2.0], [3.0]], ["a", "c", "e"])[1]
    assert report["counts"]["rows"] == 1 and report["counts"]["items"] == 2
    assert report["reasons"] == {"vectors of items that the dataset does not have": 2}


def test_vectors_beyond_a_type_are_refused_not_zero(vectors_of):
    np.testing.assert_allclose(vectors_of(np.float32([[1e20, 1e20], [0, 1e-30]]))[0]["a"], [0.5**0.5] * 2)
    with pytest.raises(PRISMError, match=r"1 rows are too small for float16 .*'b'.*use --dtype float32"):
        vectors_of([[1.0], [1e-9]], normalize=False, dtype="float16")
    assert vectors_of([[1.0], [1e-9]], normalize=False)[0]["b"] == np.float32(1e-9)
    with pytest.raises(PRISMError, match="numbers up to 1e[+]99 do not fit float32"):
        vectors_of([[1.0], [1e99]], normalize=False)


@pytest.mark.parametrize("rows", [[[1 + 2j], [1j]], [["1"], ["2"]]])
def test_vectors_that_are_no_real_numbers_are_refused(vectors_of, rows):
    with pytest.raises(PRISMError, match="v.npy: holds .*; real numbers are needed"):
        vectors_of(rows)


def test_sentence_transformers_is_optional(dataset_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(PRISMError, match="pip install sentence-transformers"):
        dataset_of({"a": "x"}, {}).encode(encoder="sentence-transformers", model="any")
