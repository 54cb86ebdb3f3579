"""One recommender asked again and again, by several threads, and for what it does not have."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest
import torch

from recbole_prism import PRISMError
from recbole_prism.errors import MANY
from recbole_prism.modalities import Modalities
from recbole_prism.recommend import Recommender
from recbole_prism.recommend.bundle import export_bundle
from recbole_prism.recommend.catalogue import Catalogue, Histories
from recbole_prism.recommend.deletion import explain


@pytest.mark.parametrize("name", ["PRISM_SASRec", "PRISM_NARM"])
def test_explanations_in_one_thread_leave_answers_in_others_alone(trained, name):
    recommender = Recommender.load(trained(name))
    history = np.array(recommender.catalogue.ids(["i1", "i2", "i5"]))
    expected, why = recommender.for_user("u1", 5), explain(recommender, history)
    answers, errors = [], []

    def ask(question, expected):
        try:
            for _ in range(25):
                answers.append(question() == expected)
        except Exception as error:
            errors.append(error)

    questions = [(lambda: recommender.for_user("u1", 5), expected), (lambda: explain(recommender, history), why)] * 2
    threads = [threading.Thread(target=ask, args=question) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(answers) == 100 and all(answers)


def test_features_are_projected_once_for_many_answers(trained, monkeypatch):
    recommender, calls, forward = Recommender.load(trained("PRISM_SASRec")), [], Modalities.forward

    def counted(self, items=None):
        calls.append(items)
        return forward(self, items)

    monkeypatch.setattr(Modalities, "forward", counted)
    first = recommender.for_sequence(["i1", "i2"], 5)
    assert all(recommender.for_sequence(["i1", "i2"], 5) == first for _ in range(3)) and len(calls) == 1
    with torch.no_grad():
        recommender.loaded.model.modalities.projection["text"].weight.mul_(-3)
    assert recommender.for_sequence(["i1", "i2"], 5) != first and len(calls) == 2


def test_a_bundle_that_cannot_be_replaced_stays(trained, tmp_path, monkeypatch):
    loaded = Recommender.load(trained("PRISM_SASRec")).loaded
    bundle = export_bundle(loaded, tmp_path / "mine")
    before, replace = {file.name: file.read_bytes() for file in bundle.iterdir()}, os.replace

    def full_disk(source, target):
        if os.path.basename(source) == "mine" and os.path.dirname(source) != str(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(PRISMError, match="mine: cannot be written .No space left"):
        export_bundle(loaded, bundle, overwrite=True)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_loading_leaves_random_numbers_alone(trained):
    path = trained("PRISM_SASRec")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Recommender.load(path)
    assert torch.equal(torch.rand(4), expected)


def test_as_many_items_as_there_are_among_few(trained):
    recommender = Recommender.load(trained("PRISM_SASRec"))
    assert len(recommender.for_sequence(["i1"], only=["i2", "i3", "i4"], exclude=["i4"])) == 2
    assert len(recommender.for_user("u1", exclude=None, seen="keep")) == 10
    with pytest.raises(PRISMError, match="k: 4 items asked for, and there are 3"):
        recommender.for_user("u1", 4, only=["i2", "i3", "i4"])
    with pytest.raises(PRISMError, match="k: 20 items asked for, and there are 19"):
        recommender.for_user("u1", 20, exclude=["i1"])


def test_a_user_whom_a_part_does_not_ask_has_no_history_of_it():
    asked = np.array([-1, -1, 2])
    histories = Histories(["[PAD]", "u", "v"], np.array([0, 0, 3, 6]), np.arange(1, 7), asked, asked)
    assert not histories.has(1, "test") and not len(histories.history(1, "valid"))
    assert histories.history(2, "test").tolist() == [4, 5]


@pytest.mark.parametrize("k", [0, 2.0, "2", True])
def test_k_is_an_integer(trained, k):
    with pytest.raises(PRISMError, match="k: .* is not allowed; must be an integer of at least 1"):
        Recommender.load(trained("PRISM_SASRec")).for_user("u1", k)


def test_what_else_is_refused(trained):
    path = trained("PRISM_SASRec")
    recommender = Recommender.load(path)
    for size in (0, -1):
        with pytest.raises(PRISMError, match="chunk_size: .* must be an integer of at least 1"):
            recommender.stream(chunk_size=size)
    for history in ([], ["i1"], [[1]]):
        with pytest.raises(PRISMError, match="history: must hold at least one item, as ids"):
            explain(recommender, history)
    for history in ([0], [1, 99]):
        with pytest.raises(PRISMError, match="history: ids are from 1 to 20"):
            explain(recommender, history)
    with pytest.raises(TypeError, match="devise"):
        Recommender.load(path, devise="cpu")
    with pytest.raises(PRISMError, match="device 'gpu': torch knows no such device"):
        Recommender.load(path, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(PRISMError, match="device 'cuda': there is no CUDA here"):
            Recommender.load(path, device="cuda")


def test_among_very_many_items_only_the_same_in_other_letters_is_suggested():
    catalogue = Catalogue(["[PAD]", *(f"Item{n}" for n in range(MANY + 1))])
    with pytest.raises(PRISMError, match="item 'item17' is unknown .did you mean 'Item17'"):
        catalogue.ids(["item17"])
    with pytest.raises(PRISMError, match="item 'Itm17' is unknown; there are"):
        catalogue.ids(["Itm17"])
