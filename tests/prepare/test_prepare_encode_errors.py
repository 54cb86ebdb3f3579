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
        ({"device": "cuda:99"}, "--device cuda:99"),
        ({"batchsize": 1}, "unknown options"),
        ({"feature_name": "../x", "modalities": ["text"]}, "--feature-name"),
        ({"batch_size": 0}, "--batch-size 0: 1 or more"),
    ],
)
def test_errors_say_what_would_be_right(dataset_of, options, message):
    with pytest.raises(PRISMError, match=message):
        dataset_of({"a": "x"}, {}).encode(**options)


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


def test_sentence_transformers_is_optional(dataset_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(PRISMError, match="pip install sentence-transformers"):
        dataset_of({"a": "x"}, {}).encode(encoder="sentence-transformers", model="any")
