"""run_recbole_prism.py and recbole-prism as a user meets them: output, exit codes, messages."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_prism.run import main

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments, cwd, timeout=120):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=timeout)


@pytest.fixture
def run(settings, monkeypatch, capsys):
    """run(--key=value ...) -> (exit code, stdout, stderr), in this process."""

    def go(*arguments):
        keys = [f"--{key}={value}" for key, value in settings.items()]
        everything = ["--dataset=tiny", *keys, *arguments]
        everything = list({argument.split("=")[0]: argument for argument in everything}.values())
        monkeypatch.setattr("sys.argv", ["run_recbole_prism.py", *everything])
        monkeypatch.setattr("recbole_prism.config.STRICT_COMMAND_LINE", False)
        code = main(everything)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


def test_help_is_quick(tmp_path):
    start = time.perf_counter()
    done = command(str(ROOT / "run_recbole_prism.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0 and "--model" in done.stdout
    assert time.perf_counter() - start < 5  # a second by itself; importing torch would take longer than this


def test_help_does_not_import_torch(tmp_path):
    code = "import sys; sys.argv = ['run_recbole_prism.py', '--help']\n"
    code += "import runpy\ntry:\n  runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    assert command("-c", code, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("model", ["PRISM_GRU4Rec", "SASRec", "Pop"])
def test_a_run_ends_with_a_summary(run, model, tmp_path):
    code, out, err = run(f"--model={model}")
    assert code == 0, err
    for word in ("validation", "test", "ndcg@10", "epochs", "checkpoint", "log"):
        assert word in out
    assert ("unique_image" in out) == model.startswith("PRISM")
    checkpoint = [line.split()[-1] for line in out.splitlines() if line.strip().startswith("checkpoint")][0]
    assert Path(checkpoint).is_file() and Path(checkpoint).parent == tmp_path / "saved"


def test_several_models_run_in_turn_and_stand_in_one_table(settings, tmp_path):
    keys = [f"--{key}={value}" for key, value in settings.items()]
    arguments = ["--model=PRISM_SASRec,SASRec", "--dataset=tiny", "--training_mode=packed", *keys]
    done = command(str(ROOT / "run_recbole_prism.py"), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("test on tiny") :].splitlines()
    assert [line.split()[0] for line in table[2:]] == ["PRISM_SASRec", "SASRec"]
    tests = [line.split()[2::2] for line in done.stdout.splitlines() if line.startswith("  test ")]
    assert [line.split()[1:-1] for line in table[2:]] == tests and tests[0] != tests[1]
    logs = [Path(line.split()[-1]).read_text() for line in done.stdout.splitlines() if line.startswith("  log ")]
    assert [log.count("best valid") for log in logs] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=PRISM_SASRek"], r"model 'PRISM_SASRek' is unknown (did you mean 'PRISM_SASRec'"),
        (["--model=SASrec"], "did you mean 'SASRec'"),
        (["--dataset=tinny"], "did you mean 'tiny'"),
        (["--qqqq=1"], "qqqq: known neither to RecBole nor to"),
        (["--epochs"], "--epochs: not understood"),
        ([f"--checkpoint_dir={__file__}"], "test_run.py is no folder that can be written to"),
        (["--topk=5"], "valid_metric: 'NDCG@10' is not computed; metrics and topk give Recall@5, NDCG@5"),
        (["--model=Pop", "--metrics=[MRR]", "--train_neg_sample_args={'sample_num': 1}"], "give MRR@10"),
        (["--modalities=['imag']"], "tiny.imag.safetensors: no such feature file"),
        (["--user_inter_num_interval='[1000,inf)'"], "no interactions are left after filtering"),
        (["--config_files=nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--model=Pop,SASRec", "--ema_decay=0.9"], "on Pop, SASRec; set training_mode: packed too"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_one(run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 1
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert "Traceback" not in err


def test_keys_that_no_model_of_the_command_reads_are_named(run):
    code, _, err = run("--model=Pop", "--train_neg_sample_args={'sample_num': 1}", "--fusion=sum")
    warnings = [line for line in err.splitlines() if line.startswith("warning:")]
    assert code == 0 and len(warnings) == 1 and warnings[0].endswith("fusion: no effect on Pop, only on PRISM models")


def test_fewer_items_than_ranks_are_named_before_training(run, monkeypatch):
    from recbole_prism.training.trainer import PackedTrainer

    train_epoch, trained = PackedTrainer._train_epoch, []

    def watched(self, *args, **kwargs):
        trained.append(self)
        return train_epoch(self, *args, **kwargs)

    monkeypatch.setattr(PackedTrainer, "_train_epoch", watched)
    assert run()[0] == 0 and len(trained) == 1
    code, _, err = run("--topk=[50]", "--valid_metric=NDCG@50")
    assert code == 1 and "topk: 50 is more than the 20 items there are" in err and len(trained) == 1


def test_a_column_that_is_not_loaded_is_named(run):
    code, _, err = run("--load_col={'inter': ['user_id', 'item_id']}")
    assert code == 1 and "TIME_FIELD: 'timestamp' is not loaded; set load_col" in err


def test_users_with_a_single_interaction_are_named(run, data_path):
    rows = [f"u{n}\ti{1 + n % 20}\t3\t{n}" for n in range(30)]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (data_path / "tiny" / "tiny.inter").write_text("\n".join([header, *rows]) + "\n")
    code, _, err = run()
    assert code == 1 and "no user has enough interactions for one to be trained on" in err


def test_debug_shows_the_traceback(run):
    code, _, err = run("--model=PRISM_SASRek", "--debug")
    assert code == 1 and "Traceback" in err


def test_corrupt_features_are_named(run, data_path):
    (data_path / "tiny" / "tiny.text.safetensors").write_bytes(b"broken")
    code, _, err = run()
    assert code == 1 and "tiny.text.safetensors: cannot be read" in err


def test_several_processes_end_with_one_summary(settings, tmp_path):
    keys = [f"--{key}={value}" for key, value in settings.items()]
    done = command(
        str(ROOT / "run_recbole_prism.py"),
        "--dataset=tiny",
        "--nproc=2",
        "--port=29741",
        "--training_mode=rows",
        *keys,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("expert weights") == 1


def test_an_error_in_a_process_ends_the_run(settings, tmp_path):
    keys = [f"--{key}={value}" for key, value in settings.items()]
    done = command(
        str(ROOT / "run_recbole_prism.py"),
        "--dataset=tiny",
        "--nproc=2",
        "--port=29742",
        "--expert_dropout=7",
        *keys,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "expert_dropout: 7 is not allowed" in done.stderr.splitlines()[-1]


def test_doctor_reports(capsys):
    from recbole_prism.__main__ import main as verbs

    assert verbs(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "recbole       1.2.1" in out and "anomaly detection" in out and "cpu" in out


def test_unknown_verb_suggests(capsys):
    from recbole_prism.__main__ import main as verbs

    with pytest.raises(SystemExit) as stop:
        verbs(["docter"])
    assert stop.value.code == 2
    assert "did you mean 'doctor'" in capsys.readouterr().err


def test_an_error_without_words_says_where_it_was_raised(capsys):
    from recbole_prism.command import guarded

    def fail() -> int:
        raise AssertionError

    assert guarded(fail, debug=False) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: AssertionError: test_run.py, line ") and "raise AssertionError" in line
