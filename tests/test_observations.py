"""What `pid` counts, and what it says of a dataset that it cannot read."""

from __future__ import annotations

import argparse

import pytest

from recbole_prism.__main__ import main
from recbole_prism.errors import PRISMError
from recbole_prism.features import read_features, write_features
from recbole_prism.observations import load
from recbole_prism.synthetic import Sizes, write_dataset


def test_a_field_of_another_name_is_to_be_set_in_the_datasets_yaml(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.inter").write_text("uid:token\titem_id:token\ttimestamp:float\nu\ta\t1\n")
    arguments = argparse.Namespace(name="own", data_path=str(tmp_path), target=None, by=None)
    with pytest.raises(PRISMError, match=r"no field 'user_id'.*\(set USER_ID_FIELD\).* from .*/own/own\.yaml$"):
        load(arguments)


@pytest.mark.filterwarnings("ignore")
def test_a_modality_of_larger_numbers_says_no_more_of_next_items(tmp_path, capsys):
    pytest.importorskip("clarabel")
    write_dataset("toy", ("synergy", "redundant"), sizes=Sizes(rows=128, clusters=2, next_items=4), data_path=tmp_path)
    clusters = ["--clusters", "2", "--target-clusters", "4", "--bootstrap", "0"]
    asked = ["pid", "toy", "--data-path", str(tmp_path), *clusters]
    assert main(asked) == 0
    before = capsys.readouterr().out
    file = tmp_path / "toy" / "toy.image.safetensors"
    image = read_features(file)
    write_features(file, image.item_ids, image.features * 1000)
    assert main(asked) == 0
    assert capsys.readouterr().out == before
