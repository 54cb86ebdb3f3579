"""What a mark stands for, and which runs share a folder."""

from recbole_prism.compare import plan, tables
from recbole_prism.compare.statistics import Comparison


def test_marks_are_of_corrected_values():
    found = {"p_seeds": 0.01, "p_users": 0.01, "p_seeds_corrected": 0.2, "p_users_corrected": 0.2}
    assert tables.marks(Comparison(0.1, 0.1, **found)) == ""


def test_other_defaults_are_another_folder(monkeypatch, tmp_path):
    ours, theirs = plan.make_plan(["PRISM_SASRec", "Pop"], ["d"], 1).jobs()
    before = ours.folder(tmp_path), theirs.folder(tmp_path)
    changed = {"PRISM_SASRec": [{"feature_length": 5.0}]}
    monkeypatch.setattr(plan, "defaults_of", lambda model: changed.get(model, []))
    assert ours.folder(tmp_path) != before[0] and theirs.folder(tmp_path) == before[1]
