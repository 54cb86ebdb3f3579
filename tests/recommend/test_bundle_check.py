"""A bundle is written only if it answers as the model does."""

import pytest
import torch

from recbole_prism import PRISMError
from recbole_prism.recommend import bundle, export_bundle
from recbole_prism.recommend.recommender import load


def test_a_bundle_that_answers_otherwise_is_not_written(trained, tmp_path, monkeypatch):
    build = bundle.build_model

    def other(*args, **kwargs):
        model = build(*args, **kwargs)
        with torch.no_grad():
            model.item_embedding.weight.mul_(2)
        return model

    monkeypatch.setattr(bundle, "build_model", other)
    with pytest.raises(PRISMError, match="computes something else without its dataset"):
        export_bundle(load(trained("PRISM_SASRec")), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
