"""Spaces in RecBole's format, and studies that resume, prune and survive failing trials."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_prism import PRISMError
from recbole_prism.__main__ import main
from recbole_prism.config import known_keys
from recbole_prism.tune_best import best_trial
from recbole_prism.tune_keys import default_space, effective
from recbole_prism.tune_space import find_space, read_space

SPACE = """\
# two that are drawn, and one list
learning_rate loguniform -7,-4
fusion_dropout choice [0.1, 0.3]
expert_hidden_size choice [8,12]
"""


@pytest.fixture
def arguments(settings, tmp_path):
    """arguments(**options) of a quick study below tmp_path."""
    (tmp_path / "space.hyper").write_text(SPACE)
    (tmp_path / "plain.hyper").write_text(SPACE.splitlines()[1])

    def make(*more, model="PRISM_GRU4Rec", trials=3, space="space.hyper", **keys):
        values = {**settings, "eval_step": 1, "epochs": 2, **keys}
        pairs = [f"{key}={json.dumps(value)}" for key, value in values.items()]  # JSON is yaml
        return ["tune", f"--model={model}", "--dataset=tiny", f"--trials={trials}", f"--space={tmp_path / space}",
                f"--output={tmp_path / 'study'}", *more, "--set", *pairs]  # fmt: skip

    return make


@pytest.fixture
def study(tmp_path):
    return lambda: optuna.load_study(study_name="tune", storage=f"sqlite:///{tmp_path / 'study' / 'study.db'}")


def test_a_study_writes_its_best(arguments, study, tmp_path, capsys):
    assert main(arguments()) == 0
    out = capsys.readouterr().out
    assert "3 trials" in out and "best: trial" in out
    best = yaml.safe_load((tmp_path / "study" / "best.yaml").read_text())
    assert best["learning_rate"] == study().best_params["learning_rate"]
    assert best["expert_hidden_size"] in (8, 12) and best["epochs"] == 2
    from recbole.config import Config

    again = Config(model="PRISM_GRU4Rec", dataset="tiny", config_file_list=[str(tmp_path / "study" / "best.yaml")])
    assert again["fusion_dropout"] == best["fusion_dropout"]
    assert (best["model"], best["dataset"]) == ("PRISM_GRU4Rec", "tiny")


def test_the_best_are_confirmed_on_more_seeds(arguments, study, tmp_path, monkeypatch, capsys):
    assert main(arguments("--confirm=2", "--seeds=3")) == 0
    out = capsys.readouterr().out
    scores = {name: score for name, score in study().user_attrs.items() if " seed " in name}
    best, second = sorted(study().trials, key=lambda trial: -trial.value)[:2]
    first = 2020  # RecBole's, where none is set
    names = [f"trial {trial.number} seed {first + n}" for trial in (best, second) for n in (1, 2)]
    assert sorted(scores) == sorted(names)
    means = [
        sum([trial.value, *(scores[f"trial {trial.number} seed {first + n}"] for n in (1, 2))]) / 3
        for trial in (best, second)
    ]
    assert all(f"mean {mean:.5f} of " in out for mean in means)
    chosen = best if means[0] >= means[1] else second
    assert f"best: trial {chosen.number}, " in out

    def train_again(*arguments):
        raise AssertionError("was trained already")

    monkeypatch.setattr("recbole_prism.tune_trial.train", train_again)  # the same command trains nothing again
    assert main(arguments("--confirm=2", "--seeds=3")) == 0
    assert f"best: trial {chosen.number}, " in capsys.readouterr().out


def test_a_search_whose_confirmation_fails_leaves_its_best(arguments, tmp_path, monkeypatch, capsys):
    assert main(arguments()) == 0
    file = tmp_path / "study" / "best.yaml"
    found = file.read_text()
    file.unlink()

    def no_memory(*arguments):
        raise PRISMError("no memory")

    monkeypatch.setattr("recbole_prism.tune_trial.train", no_memory)
    assert main(arguments("--confirm=2", "--seeds=2")) == 1
    assert "no memory" in capsys.readouterr().err
    assert file.read_text() == found


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 0)])
def test_the_best_mean_is_taken_where_some_were_confirmed(tmp_path, direction, best):
    found = optuna.create_study(direction=direction)
    for value in (0.5, 0.4, 0.45):
        found.add_trial(optuna.trial.create_trial(value=value))
    confirmed = {0: [0.5, 0.1], 1: [0.4, 0.4], 2: [0.45, 0.2]}
    assert best_trial(found, tmp_path, confirmed).number == best
    assert best_trial(found, tmp_path, {}).number == (0 if direction == "maximize" else 1)
    found.add_trial(optuna.trial.create_trial(value=0.9 if direction == "maximize" else 0.1))  # of another process
    assert best_trial(found, tmp_path, confirmed).number == best


def test_a_search_elsewhere_is_not_confirmed(arguments, capsys):
    assert main(arguments("--confirm=2", "--ray")) == 1
    assert "--confirm: goes with a search on this machine" in capsys.readouterr().err


def test_the_best_is_trained_and_searched_further_by_its_file(arguments, tmp_path, monkeypatch, capsys):
    """Model and dataset stand in the file: neither command has to be told them again."""
    from recbole_prism.run import main as run

    assert main(arguments(trials=1)) == 0
    best = str(tmp_path / "study" / "best.yaml")
    monkeypatch.setattr("sys.argv", ["run_recbole_prism.py"])
    monkeypatch.setattr("recbole_prism.config.STRICT_COMMAND_LINE", False)  # and so afterwards
    capsys.readouterr()
    assert run(["--config_files", best]) == 0
    assert "\nPRISM_GRU4Rec on tiny\n" in capsys.readouterr().out
    more = ["tune", "--config-files", best, "--trials=1", f"--space={tmp_path / 'space.hyper'}"]
    assert main([*more, f"--output={tmp_path / 'more'}"]) == 0
    again = yaml.safe_load((tmp_path / "more" / "best.yaml").read_text())
    assert (again["model"], again["dataset"]) == ("PRISM_GRU4Rec", "tiny")


def test_a_study_resumes_and_counts_all_trials(arguments, study):
    assert main(arguments(trials=2)) == 0
    first = [trial.params for trial in study().trials]
    assert main(arguments(trials=3)) == 0
    assert len(study().trials) == 3 and [trial.params for trial in study().trials[:2]] == first
    assert main(arguments(trials=3)) == 0  # nothing left to do
    assert len(study().trials) == 3


def test_a_trial_of_a_dead_process_is_not_counted(arguments, study):
    assert main(arguments(trials=1)) == 0
    died = study().ask()
    study().tell(died, state=optuna.trial.TrialState.FAIL)  # what Optuna's heartbeat makes of it
    assert main(arguments(trials=2)) == 0
    assert [trial.state.name for trial in study().trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_trial_that_a_killed_process_left_is_replaced(arguments, study, monkeypatch):
    """The command comes again before the dead trial's heartbeat is old enough."""
    monkeypatch.setattr("recbole_prism.tune.HEARTBEAT", 1)
    assert main(arguments(trials=1)) == 0
    left = study().ask()
    study()._storage.record_heartbeat(left._trial_id)
    assert main(arguments(trials=2)) == 0
    assert [trial.state.name for trial in study().trials] == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize("warmup", [0, 2])
def test_a_weak_trial_gets_its_epochs_before_it_is_stopped(arguments, study, warmup):
    options = ["--startup=1", f"--warmup={warmup}"]
    assert main(arguments(*options, trials=1, epochs=4)) == 0
    first = study().trials[0]
    study().add_trial(  # one with scores that nothing reaches
        optuna.trial.create_trial(
            params={**first.params, "learning_rate": 0.005},
            distributions=first.distributions,
            value=1.0,
            intermediate_values=dict.fromkeys(range(4), 1.0),
            user_attrs={"valid": {}},
        )
    )
    assert main(arguments(*options, trials=3, epochs=4)) == 0
    last = study().trials[2]
    assert last.state.name == "PRUNED" and list(last.intermediate_values) == list(range(warmup + 1))


def test_what_was_drawn_before_is_not_trained_again(arguments, study, monkeypatch, capsys):
    assert main(arguments(trials=1)) == 0
    first = study().trials[0]
    study().enqueue_trial(first.params)
    trained = []

    def train(trial, *_):
        trained.append(trial.number)
        trial.set_user_attr("valid", {})
        return 0.0

    monkeypatch.setattr("recbole_prism.tune_trial.train_trial", train)
    capsys.readouterr()
    assert main(arguments(trials=2)) == 0
    assert study().trials[1].value == first.value and trained == [2]  # which is the second that was trained
    assert f"trial   1 complete {first.value:.5f} as trial 0" in capsys.readouterr().out


def test_a_space_may_have_fewer_values_than_trials(arguments, study, tmp_path, monkeypatch):
    (tmp_path / "two.hyper").write_text("expert_hidden_size choice [8,12]")
    trained = []

    def train(trial, *_):
        trained.append(trial.params["expert_hidden_size"])
        trial.set_user_attr("valid", {})
        return 0.0

    monkeypatch.setattr("recbole_prism.tune_trial.train_trial", train)
    assert main(arguments("--sampler=random", trials=4, space="two.hyper")) == 0
    assert sorted(trained) == [8, 12] and len(study().trials) == 2 + 4 + 2


def test_whole_numbers_are_written_as_such(arguments, tmp_path):
    (tmp_path / "whole.hyper").write_text("hidden_size quniform 8,16,8\nexpert_dropout uniform 0.1,0.2\n")
    assert main(arguments(trials=1, space="whole.hyper")) == 0
    best = yaml.safe_load((tmp_path / "study" / "best.yaml").read_text())
    assert best["hidden_size"] in (8, 16) and isinstance(best["hidden_size"], int)
    assert isinstance(best["expert_dropout"], float)


def test_a_study_of_something_else_is_refused(arguments, capsys):
    assert main(arguments(trials=1)) == 0
    capsys.readouterr()
    assert main(arguments(trials=2, epochs=3)) == 1
    err = capsys.readouterr().err
    assert "was begun with another model, dataset, space or settings" in err and len(err.splitlines()) == 1


def test_a_study_of_other_defaults_is_refused(arguments, capsys, monkeypatch):
    assert main(arguments(trials=1)) == 0
    monkeypatch.setattr("recbole_prism.compare.plan.defaults_of", lambda model: [{"feature_length": 5.0}])
    assert main(arguments(trials=2)) == 1
    assert "was begun with another model, dataset, space or settings" in capsys.readouterr().err


def test_a_study_of_a_dataset_whose_settings_changed_is_refused(arguments, data_path, capsys):
    own = data_path / "tiny" / "tiny.yaml"
    own.write_text("weight_decay: 0.1\n")
    assert main(arguments(trials=1, model="GRU4Rec", space="plain.hyper")) == 0
    own.write_text("weight_decay: 0.2\n")
    capsys.readouterr()
    assert main(arguments(trials=2, model="GRU4Rec", space="plain.hyper")) == 1
    assert "was begun with another" in capsys.readouterr().err


def test_a_study_of_data_that_changed_is_refused(arguments, data_path, capsys):
    assert main(arguments(trials=1)) == 0
    file = data_path / "tiny" / "tiny.inter"
    file.write_text(file.read_text() + "u1\ti3\t1\t500\n")
    capsys.readouterr()
    assert main(arguments(trials=2)) == 1
    assert "or other data" in capsys.readouterr().err


def test_weak_trials_are_stopped_early(arguments, study, monkeypatch):
    monkeypatch.setattr("optuna.Trial.should_prune", lambda trial: trial.number > 0)
    assert main(arguments(trials=3)) == 0
    assert [trial.state.name for trial in study().trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert list(study().trials[1].intermediate_values) == [0]


def test_a_failing_trial_does_not_stop_the_rest(arguments, study, monkeypatch):
    import recbole_prism.tune_trial as tune_trial

    train = tune_trial.train_trial

    def fail_the_second(trial, *more):
        if trial.number == 1:
            raise RuntimeError("out of memory")
        return train(trial, *more)

    monkeypatch.setattr(tune_trial, "train_trial", fail_the_second)
    assert main(arguments(trials=3)) == 0
    states = [(trial.state.name, trial.user_attrs.get("error")) for trial in study().trials]
    assert states == [("COMPLETE", None), ("FAIL", "RuntimeError: out of memory"), ("COMPLETE", None)]


def test_processes_share_a_study(arguments, study, tmp_path):
    command = [sys.executable, "-m", "recbole_prism", *arguments("--jobs=2", trials=4, model="SASRec")]
    (tmp_path / "space.hyper").write_text("learning_rate loguniform -7,-4\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    trials = study().trials
    assert 4 <= len(trials) <= 5 and all(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials)
    assert len({trial.params["learning_rate"] for trial in trials}) == len(trials)
    told = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("trial ")]
    assert sorted(told) == [trial.number for trial in trials], "every trial is told once, of all processes"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("lambda_sinergy choice [1,2]", "lambda_sinergy: known neither to RecBole nor to PRISM_GRU4Rec"),
        ("learning_rate loguniform -4,-7", "line 1: needs low,high in growing order, has '-4,-7'"),
        ("learning_rate loguniforn -7,-4", "did you mean 'loguniform'"),
        ("learning_rate choice __import__('os')", "is no list of values"),
        ("learning_rate uniform 0,nan", "needs low,high"),
        ("# nothing", "names no parameter"),
        ("a uniform 0,1\na uniform 0,1", "line 2: a is there twice"),
    ],
)
def test_bad_spaces_are_one_line_and_exit_code_one(arguments, capsys, tmp_path, space, message):
    code_arguments = arguments()
    (tmp_path / "space.hyper").write_text(space + "\n")
    assert main(code_arguments) == 1
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_bad_settings_are_found_before_a_trial(arguments, capsys, tmp_path):
    assert main(arguments(epochz=3)) == 1
    assert "did you mean 'epochs'" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()
    assert main([*arguments()[:-1], "epochs"]) == 1
    assert "settings are written as KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["prism", "sasrec", "gru4rec", "prism_sasrec", "prism_gru4rec"])
def test_our_spaces_name_known_keys_and_recbole_reads_them(name):
    from recbole.trainer import HyperTuning

    space = read_space(find_space(name))
    assert {parameter.name for parameter in space} <= known_keys()
    recbole = HyperTuning._build_space_from_file(find_space(name))
    assert set(recbole) == {parameter.name for parameter in space}


def test_keys_that_a_plain_model_does_not_read_are_refused(arguments, capsys, tmp_path):
    for line, model, message in (
        ("lerning_rate choice [0.1,0.001]", "SASRec", "lerning_rate: known neither to RecBole nor to SASRec"),
        ("fusion_dropout choice [0,0.5]", "SASRec", "fusion_dropout: has no effect on SASRec"),
        (
            "cosine_temperature choice [0.1]",
            "GRU4Rec",
            "cosine_temperature: would have no effect on GRU4Rec; set train",
        ),
    ):
        (tmp_path / "own.hyper").write_text(line)
        assert main(arguments(model=model, space="own.hyper")) == 1
        err = capsys.readouterr().err
        assert message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_the_space_is_the_models_unless_named():
    asked = (("PRISM_NARM", "prism"), ("PRISM_NARM", "mrdib"), ("SASRec", None))
    assert [default_space(*each) for each in asked] == ["prism", "mrdib", "sasrec"]
    with pytest.raises(PRISMError, match="--space: BPR has none of its own here"):
        default_space("BPR", None)


@pytest.mark.parametrize(
    ("model", "fusion", "left_out"),
    [
        ("PRISM_SASRec", "prism", set()),
        ("PRISM_HGN", "prism", {"score_items"}),
        ("PRISM_SASRec", "none", {"lambda_unique", "expert_dropout", "fusion_dropout", "fusion_temperature"}),
        ("PRISM_SASRec", "prism+residual", {"lambda_unique", "lambda_synergy", "lambda_redundancy"}),
        ("MRdIB_HGN", "mrdib", {"score_items"}),
    ],
)
def test_a_space_of_ours_holds_what_the_model_reads(model, fusion, left_out):
    whole = read_space(find_space(default_space(model, fusion)))
    names = {parameter.name for parameter in whole} - {each.name for each in effective(whole, model, fusion)}
    assert left_out <= names and (names == left_out or fusion == "none")


def test_a_space_of_ones_own_must_be_read(arguments, tmp_path, capsys):
    (tmp_path / "own.hyper").write_text("lambda_unique choice [0.1,0.2]\n")
    assert main(arguments(model="MRdIB_SASRec", space="own.hyper")) == 1
    assert "lambda_unique: has no effect on MRdIB_SASRec with fusion: mrdib" in capsys.readouterr().err


def test_every_trial_has_a_folder(arguments, study, tmp_path, monkeypatch):
    monkeypatch.setattr("optuna.Trial.should_prune", lambda trial: trial.number == 1)
    assert main(arguments(trials=2)) == 0
    whole, stopped = (tmp_path / "study" / "trials" / number for number in ("000", "001"))
    settings = yaml.safe_load((whole / "settings.yaml").read_text())
    assert (
        settings["model"] == "PRISM_GRU4Rec" and settings["learning_rate"] == study().trials[0].params["learning_rate"]
    )
    scores = [line.split(",") for line in (whole / "epochs.csv").read_text().splitlines()]
    assert scores[0] == ["epoch", "score"] and [row[0] for row in scores[1:]] == ["0", "1"]
    result = json.loads((whole / "result.json").read_text())
    assert result["score"] == study().trials[0].value == max(result["valid"]["ndcg@10"], 0)
    assert json.loads((stopped / "result.json").read_text()) == {"stopped": "the pruner saw no hope"}


def test_processes_side_by_side_share_the_cores(arguments, monkeypatch):
    from recbole_prism import tune

    started = []
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("torch.set_num_threads", started.append)
    monkeypatch.setattr(tune.subprocess, "Popen", lambda command, **more: started.append(more["env"]))
    asked = argparse.Namespace(**dict.fromkeys(("model", "dataset", "space", "trials", "sampler", "pruner"), "x"))
    vars(asked).update(startup=1, warmup=1, seed=0, config_files=[], set=[], jobs=4)
    tune._start_workers(asked, Path("there"))
    assert started[0] == 2 and [each["OMP_NUM_THREADS"] for each in started[1:]] == ["2"] * 3


def test_an_unknown_space_is_told_which_there_are():
    with pytest.raises(
        PRISMError,
        match="recbole-prism brings .'gru4rec', 'mrdib', 'prism', 'prism_gru4rec', 'prism_sasrec', 'sasrec'.",
    ):
        find_space("prizm")


def test_values_are_drawn_as_hyperopt_would(tmp_path):
    file = tmp_path / "a.hyper"
    file.write_text("a quniform 10,30,10\nb choice ['[64,64]',[8],None,1.5]\nc loguniform -1,0\n")
    trial = optuna.trial.FixedTrial({"a": 20.0, "b": "[8]", "c": 0.5})
    assert [parameter.draw(trial) for parameter in read_space(file)] == [20, "[8]", 0.5]


@given(st.text(alphabet="ab choieunfrmlg[]'\",-.0123456789\n#", max_size=80))
def test_no_space_whatever_crashes(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("space") / "a.hyper"
    file.write_text(text)
    try:
        assert read_space(file)
    except PRISMError:
        pass


def test_the_first_trial_failing_ends_the_study(arguments, capsys, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("recbole_prism.tune_trial.train_trial", fail)
    assert main(arguments()) == 1
    assert "the first trial failed: RuntimeError: out of memory" in capsys.readouterr().err
