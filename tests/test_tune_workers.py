"""What the processes of a study are told, and whose scores are confirmed."""

import argparse

from recbole_prism import tune
from recbole_prism.__main__ import main
from tests import test_tune

arguments, study = test_tune.arguments, test_tune.study


def test_other_processes_are_told_all_that_this_one_was():
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    words = "--model A --dataset b --space s --trials 7 --sampler random --pruner none --startup 3 --warmup 4 --seed 9"
    ours = parser.parse_args([*words.split(), "--config-files", "x.yaml", "--set", "epochs=5"])
    assert vars(parser.parse_args(tune._same_arguments(ours))) == vars(ours)
    unnamed = parser.parse_args(["--model", "PRISM_HGN", "--dataset", "b"])
    assert parser.parse_args(tune._same_arguments(unnamed)).space is None


def test_processes_share_a_study_in_the_default_space(arguments, study):
    """Of which a model that ranks by a table of its own leaves a part out."""
    words = [word for word in arguments("--jobs=2", trials=2, model="PRISM_HGN") if not word.startswith("--space")]
    assert main(words) == 0
    assert all("score_items" not in trial.params for trial in study().trials) and len(study().trials) >= 2


def test_what_took_anothers_score_is_not_confirmed(arguments, study, monkeypatch):
    def train(trial, *_):
        trial.set_user_attr("valid", {})
        return 0.0

    monkeypatch.setattr("recbole_prism.tune_trial.train_trial", train)
    monkeypatch.setattr("recbole_prism.tune_trial.train", lambda *_: (0.0, {}))
    assert main(arguments(trials=1)) == 0
    study().enqueue_trial(study().trials[0].params)
    assert main(arguments("--confirm=2", "--seeds=2", trials=2)) == 0
    assert sorted(name.split()[1] for name in study().user_attrs if " seed " in name) == ["0", "2"]
