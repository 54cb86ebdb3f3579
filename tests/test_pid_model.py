"""``pid --model``: weights beside the bits are those of a model of the same data."""

from __future__ import annotations

import shutil

import pytest

from recbole_prism.errors import PRISMError
from recbole_prism.pid import check_same
from recbole_prism.recommend.bundle import export_bundle
from recbole_prism.recommend.recommender import load
from tests.recommend.conftest import trained  # noqa: F401


def test_a_model_of_other_data_is_refused(request):
    loaded = load(request.getfixturevalue("trained")("PRISM_SASRec", modalities=["text"]))
    check_same(loaded, "tiny", ["text"])
    with pytest.raises(PRISMError, match="was trained on tiny, and the bits are those of other"):
        check_same(loaded, "other", ["text"])
    with pytest.raises(
        PRISMError, match=r"has the modalities \['text'\], and the bits are those of \['image', 'text'\]"
    ):
        check_same(loaded, "tiny", ["image", "text"])


def test_a_bundle_may_stand_beside_the_bits(request, tmp_path, capsys):
    from recbole_prism.__main__ import main

    made = request.getfixturevalue("trained")
    bundle = export_bundle(load(made("PRISM_SASRec")), tmp_path / "b.zip", with_users=True)
    shutil.copytree(made.data_path, tmp_path / "data")
    (tmp_path / "data" / "tiny" / "tiny.yaml").write_text("load_col: {inter: [user_id, item_id, timestamp]}\n")
    words = ["pid", "tiny", f"--data-path={tmp_path / 'data'}", "--clusters=2", "--target-clusters=2", "--bootstrap=0"]
    pytest.importorskip("clarabel")
    assert main([*words, "--model", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "mean weight" in out and "nan" not in out
