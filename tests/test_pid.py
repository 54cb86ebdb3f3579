"""Partial information decomposition: exact on gates, honest about few counts, and from a dataset."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from recbole_prism.__main__ import main
from recbole_prism.errors import PRISMError
from recbole_prism.information import bootstrap, count, decompose, mutual_information
from recbole_prism.observations import Observations, pool
from recbole_prism.pid import measure, model_columns
from recbole_prism.synthetic import Sizes, write_dataset

clarabel = pytest.importorskip("clarabel")


def gate(rule, inputs=((0, 0), (0, 1), (1, 0), (1, 1))) -> np.ndarray:
    """p(y, a, b) of y = rule(a, b), the inputs equally likely."""
    table = np.zeros((4, 2, 2))
    for a, b in inputs:
        table[rule(a, b), a, b] += 1
    return table


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (gate(lambda a, b: a ^ b), (0, 0, 0, 1)),
        (gate(lambda a, b: a, [(0, 0), (1, 1)]), (0, 0, 1, 0)),
        (gate(lambda a, b: a), (1, 0, 0, 0)),
        (gate(lambda a, b: b), (0, 1, 0, 0)),
        (gate(lambda a, b: a & b), (0, 0, 0.75 * np.log2(4 / 3), 0.5)),  # Bertschinger et al., table 1: .311 and .5
        (gate(lambda a, b: 2 * a + b), (1, 1, 0, 0)),
        (np.ones((3, 3, 3)), (0, 0, 0, 0)),
    ],
    ids=["xor", "redundant", "unique a", "unique b", "and", "copy", "nothing"],
)
def test_gates_whose_parts_are_known(table, expected):
    parts = decompose(table)
    assert tuple(parts.values()) == pytest.approx(expected, abs=1e-6)


def test_parts_sum_to_what_either_and_both_tell():
    p = np.random.default_rng(0).dirichlet(np.ones(48)).reshape(4, 3, 4)
    parts = decompose(1000 * p)
    assert min(parts.values()) >= 0
    assert parts["unique_a"] + parts["redundancy"] == pytest.approx(mutual_information(p.sum(2)), abs=1e-6)
    assert parts["unique_b"] + parts["redundancy"] == pytest.approx(mutual_information(p.sum(1)), abs=1e-6)
    assert sum(parts.values()) == pytest.approx(mutual_information(p.reshape(4, -1)), abs=1e-6)
    mirrored = decompose(p.transpose(0, 2, 1))
    assert mirrored["unique_a"] == pytest.approx(parts["unique_b"], abs=1e-5)


def test_no_other_distribution_of_the_same_marginals_has_less_joint_information():
    """All tables 2 x 2 x 2 of the same marginals: for each y one number may move, + and - on the two diagonals."""
    p = np.random.default_rng(1).dirichlet(np.ones(8)).reshape(2, 2, 2)
    parts = decompose(p)
    least = parts["unique_a"] + parts["unique_b"] + parts["redundancy"]
    move = np.array([[1, -1], [-1, 1]])
    best = np.inf
    for first in np.linspace(-1, 1, 201):
        for second in np.linspace(-1, 1, 201):
            q = p + np.stack([first * move, second * move]) * 0.5
            if q.min() >= 0:
                best = min(best, mutual_information(q.reshape(2, -1)))
    assert least <= best + 1e-9 and best == pytest.approx(least, abs=1e-3)


def test_few_counts_make_up_synergy_and_the_shuffled_level_shows_it():
    rng = np.random.default_rng(0)
    y, a, b = (rng.integers(4, size=200) for _ in range(3))
    report = measure(["image", "text"], Observations(y, a, b, np.arange(200), 0), times=40, seed=0)
    assert report.bits["synergy"] > 0.1  # of nothing
    assert report.shuffled["synergy"] == pytest.approx(report.bits["synergy"], rel=0.5)
    assert report.intervals["synergy"][0] < 0.05  # the reflected interval takes the bias off


def test_intervals_hold_the_truth_and_shrink_with_counts():
    def interval(n: int) -> tuple[float, float]:
        rng = np.random.default_rng(n)
        a, b = rng.integers(2, size=n), rng.integers(2, size=n)
        y = np.where(rng.random(n) < 0.1, rng.integers(2, size=n), a ^ b)
        codes = np.stack([y, a, b])
        draw = lambda generator: count(*codes[:, generator.integers(n, size=n)], (2, 2, 2))  # noqa: E731
        return bootstrap(draw, decompose(count(y, a, b, (2, 2, 2))), 60, seed=0)["synergy"]

    noise = 0.05
    truth = 1 + noise * np.log2(noise) + (1 - noise) * np.log2(1 - noise)
    wide, narrow = interval(300), interval(3000)
    assert narrow[0] <= truth <= narrow[1] and narrow[1] - narrow[0] < wide[1] - wide[0]


def test_pools_are_means_over_the_items_before():
    class Histories:
        items, offsets = np.array([1, 2, 3, 2, 1]), np.array([0, 0, 3, 5])

    values, covered = np.array([[0.0], [1.0], [2.0], [4.0]]), np.array([False, True, True, False])
    mean, known = pool(values, covered, Histories, length=2)
    assert known.tolist() == [False, True, True, False, True]
    assert mean[known].ravel().tolist() == [1.0, 1.5, 2.0]
    assert pool(values, covered, Histories, length=1)[0][2, 0] == 2.0


@pytest.mark.filterwarnings("ignore")
def test_command_on_a_dataset_with_known_bits(tmp_path, capsys, monkeypatch):
    write_dataset("toy", ("synergy", "redundant"), sizes=Sizes(rows=128, clusters=2, next_items=4), data_path=tmp_path)
    options = ["--data-path", str(tmp_path), "--clusters", "2", "--target", "next_class", "--bootstrap", "0"]
    assert main(["pid", "toy", *options, "--by", "group"]) == 0
    output = capsys.readouterr().out
    redundant, synergy = output.split("toy, group synergy")
    assert "redundancy          1.0000" in redundant and "synergy             0.0000" in redundant
    assert "synergy             1.0000" in synergy and "unique_image        0.0000" in synergy
    assert model_columns(None, None) == {}
    yaml = tmp_path / "toy" / "toy.yaml"
    before = yaml.read_text()
    own = "{inter: [user_id, item_id_list, item_id], item: [item_id, image_cluster]}"  # a field, which must stay loaded
    yaml.write_text(before + f"load_col: {own}\nmodalities: {{kind: image_cluster, text: }}\n")
    assert main(["pid", "toy", *options]) == 0
    assert "unique_kind" in capsys.readouterr().out
    yaml.write_text(before)
    monkeypatch.setattr("sys.argv", ["recbole-prism", "pid", "toy", f"--data-path={tmp_path}", "--history=last"])
    assert main(["pid", "toy", *options]) == 0  # RecBole reads the command line as well
    capsys.readouterr()
    assert main(["pid", "toy", *options[:-4], "--target", "nothing"]) == 1
    assert "--target nothing: no token field of that name" in capsys.readouterr().err
    assert main(["pid", "toy", *options, "--modalities", "image", "audio"]) == 1
    assert "two different modalities are needed" in capsys.readouterr().err
    assert main(["pid", "toy", "--clusters", "1"]) == 1
    assert "--clusters: 1 is less than 2" in capsys.readouterr().err


def test_without_the_solver_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "clarabel", None)
    with pytest.raises(PRISMError, match=r"pip install recbole-prism\[pid\]"):
        decompose(np.ones((2, 2, 2)))
