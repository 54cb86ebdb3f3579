"""What `pid` counts, and what it says of a dataset that it cannot read."""

from __future__ import annotations

import argparse

import pytest

from recbole_prism.errors import PRISMError
from recbole_prism.observations import load


def test_a_field_of_another_name_is_to_be_set_in_the_datasets_yaml(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.inter").write_text("uid:token\titem_id:token\ttimestamp:float\nu\ta\t1\n")
    arguments = argparse.Namespace(name="own", data_path=str(tmp_path), target=None, by=None)
    with pytest.raises(PRISMError, match=r"no field 'user_id'.*\(set USER_ID_FIELD\).* from .*/own/own\.yaml$"):
        load(arguments)
