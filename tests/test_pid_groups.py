"""Who is counted for a group, and what an interval is of."""

import numpy as np
import pytest

from recbole_prism import pid
from recbole_prism.__main__ import main
from recbole_prism.observations import Observations
from recbole_prism.pid import measure
from recbole_prism.synthetic import Sizes, write_dataset

pytest.importorskip("clarabel")


@pytest.mark.filterwarnings("ignore")
def test_groups_are_told_of_by_their_own_users(tmp_path, monkeypatch):
    write_dataset("toy", ("synergy", "redundant"), sizes=Sizes(rows=128, clusters=2, next_items=4), data_path=tmp_path)
    options = ["--data-path", str(tmp_path), "--clusters", "2", "--target", "next_class", "--bootstrap", "0"]
    asked = []
    monkeypatch.setattr(pid, "model_columns", lambda recommender, users: asked.append(users) or {})
    assert main(["pid", "toy", *options, "--by", "group"]) == 0
    assert main(["pid", "toy", *options]) == 0
    first, second, everyone = asked
    assert first and second and not first & second and everyone is None


def test_intervals_are_of_users_and_not_of_their_next_items():
    user = np.repeat(np.arange(6), 50)
    y = user % 2
    report = measure(["a", "b"], Observations(y, y, np.zeros_like(y), user, 0), times=40, seed=0)
    low, high = report.intervals["unique_a"]
    assert report.bits["unique_a"] == pytest.approx(1, abs=1e-5) and high - low > 0.2
