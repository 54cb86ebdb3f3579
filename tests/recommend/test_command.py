"""``recbole-prism recommend`` and ``export`` as a user meets them."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from recbole_prism.__main__ import main
from recbole_prism.recommend import Recommender
from recbole_prism.recommend.checkpoint import place


@pytest.fixture
def run(capsys):
    """run(*arguments) -> (exit code, stdout, stderr)."""

    def go(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


def test_one_user(run, trained):
    code, out, err = run("recommend", trained("PRISM_SASRec"), "--user", "u1", "-k", 3)
    assert code == 0, err
    assert out.splitlines()[0] == "user u1" and len(out.splitlines()) == 4
    assert "The i" in out


def test_a_sequence_as_json(run, trained):
    code, out, _ = run("recommend", trained("PRISM_SASRec"), "--sequence", "i1", "i2", "-k", 2, "--format", "json")
    assert code == 0
    assert [set(item) for item in json.loads(out)["items"]] == [{"item", "score", "title"}] * 2


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_all_users_to_a_table(run, trained, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("recbole_prism.recommend.scoring.SCORES_AT_ONCE", {"cpu": 21 * 5})  # five users at once
    checkpoint, output = trained("PRISM_SASRec"), tmp_path / "out" / f"all.{suffix}"
    code, out, err = run("recommend", checkpoint, "--all-users", "-k", 3, "-o", output)
    assert code == 0, err
    assert "24 users, up to 3 items each" in out
    if suffix == "csv":
        with open(output, newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        import pyarrow.parquet as parquet

        rows = parquet.read_table(output).to_pylist()
    assert len(rows) == 24 * 3 and list(rows[0]) == ["user", "rank", "item", "score", "title"]
    expected = Recommender.load(checkpoint).for_user("u7", 3)
    mine = [row for row in rows if row["user"] == "u7"]
    assert [row["item"] for row in mine] == [item.item for item in expected]
    np.testing.assert_allclose([float(row["score"]) for row in mine], [i.score for i in expected], rtol=1e-5)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_tokens_from_files_and_new_items(run, trained, tmp_path, new_items):
    (tmp_path / "users.txt").write_text("u1\nu2\n")
    (tmp_path / "only.txt").write_text("new1\nnew2\ni4\n")
    checkpoint = trained("PRISM_SASRec", score_items="content")
    new = [f"{name}={file}" for name, file in new_items.items()]
    code, out, err = run(
        "recommend", checkpoint, "--user", f"@{tmp_path / 'users.txt'}", "--format", "csv",
        "--only", f"@{tmp_path / 'only.txt'}", "--exclude", "i4", "--new-items", *new, "--new-item-spread", 0.5,
    )  # fmt: skip
    assert code == 0, err
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["user"] for row in rows] == ["u1", "u1", "u2", "u2"]
    assert {row["item"] for row in rows} == {"new1", "new2"}


def test_export_then_recommend_from_the_bundle(run, trained, tmp_path):
    code, out, err = run("export", trained("PRISM_SASRec"), tmp_path / "b.zip", "--with-users")
    assert code == 0, err
    assert "20 items (20 with a title), 24 users" in out and "SHA-256" in out
    same = [run("recommend", path, "--user", "u1")[1] for path in (trained("PRISM_SASRec"), tmp_path / "b.zip")]
    assert same[0] == same[1] != ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "u111"], "user 'u111' is unknown (did you mean 'u11'"),
        (["--sequence", "i1", "i200"], "item 'i200' is unknown (did you mean"),
        (["--sequence", "i1", "-k", "21"], "k: 21 items asked for, and there are 20 to choose from"),
        (["--sequence", "i1", "-k", "0"], "k: 0 is not allowed"),
        (["--user", "u1", "--only", "i1", "-k", "2"], "k: 2 items asked for, and there are 1 to choose from"),
        (["--user", "u1", "--exclude", "nope"], "item 'nope' is unknown"),
        (["--sequence", "@empty.txt"], "empty.txt: holds no token"),
        (["--sequence", "i1", "--history", "test"], "--history chooses what of a user's past counts"),
        (["--user", "@@0"], "user '@0' is unknown"),
        (["--user", "@nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--user", "u1", "-o", "a.xlsx"], "a.xlsx: unknown kind of table; known: .csv, .parquet"),
        (["--user", "u1", "--new-items", "text"], "'text': not understood; new items are named as MODALITY=FILE"),
        (["--user", "u1", "--new-item-spread", "1"], "--new-item-spread: no new items are named"),
        (["--user", "u1", "--title-field", "titel"], "no field 'titel'"),
        (["--user", "u1", "--data-path", "nowhere"], "say where the dataset is (data_path=, --data-path)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_one(run, trained, tmp_path, arguments, message):
    (tmp_path / "empty.txt").write_text("\n")
    before = sorted(tmp_path.iterdir())
    code, out, err = run("recommend", trained("PRISM_SASRec"), *arguments)
    assert code == 1 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and message in err
    assert sorted(tmp_path.iterdir()) == before


def test_files_that_are_no_checkpoint_of_a_sequential_model(run, trained, tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"weights": 1}, tmp_path / "other.pth")
    torch.save({"config": {"model": "SASRec"}, "state_dict": {}}, tmp_path / "foreign.pth")
    for name, message in (
        ("text.pth", "cannot be read as a checkpoint"),
        ("other.pth", "is not a checkpoint of RecBole"),
        ("foreign.pth", "is not a checkpoint of RecBole"),
    ):
        code, _, err = run("recommend", tmp_path / name, "--user", "u1")
        assert code == 1 and message in err and len(err.splitlines()) == 1
    code, _, err = run("recommend", trained("Pop"), "--user", "u1")
    assert code == 1 and "Pop is not a sequential model" in err


@pytest.mark.parametrize("model", ["PRISM_SASRec", "SASRec"])
def test_a_checkpoint_of_another_dataset_is_refused(run, trained, tmp_path, model):
    from tests.dataset_made import write_dataset

    folder = write_dataset(tmp_path / "other", seed=1)  # the same sizes, other ids
    lines = (folder / "tiny" / "tiny.inter").read_text().splitlines()
    (folder / "tiny" / "tiny.inter").write_text("\n".join([*lines, "u1\ti99\t1\t500"]) + "\n")
    code, _, err = run("recommend", trained(model), "--user", "u1", "--data-path", folder)
    assert code == 1 and len(err.splitlines()) == 1
    assert "fit" in err or "other items" in err


def test_a_full_disk_leaves_nothing_behind(run, trained, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(28, "No space left on device")

    target = tmp_path / "out"
    target.mkdir()
    monkeypatch.setattr("recbole_prism.recommend.writing.os.replace", refuse)
    code, _, err = run("recommend", trained("PRISM_SASRec"), "--all-users", "-o", target / "a.csv")
    assert code == 1 and "cannot be written (No space left on device)" in err
    code, _, err = run("export", trained("PRISM_SASRec"), target / "bundle")
    assert code == 1 and "cannot be written" in err
    assert list(target.iterdir()) == []


def test_help_does_not_import_torch():
    code = "import sys; sys.argv = ['recbole-prism', '--help']\nfrom recbole_prism.__main__ import main\n"
    for verb in ("recommend", "export"):
        run = f"try:\n  main(['{verb}', '--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
        assert subprocess.run([sys.executable, "-c", code + run], capture_output=True).returncode == 0


def test_a_checkpoint_of_ml_100k_reads_the_copy_that_recbole_brings(settings, tmp_path):
    """RecBole keeps that dataset in its own folder, and ours has the features alone."""
    from recbole.config import Config

    (tmp_path / "mine" / "ml-100k").mkdir(parents=True)
    config = Config(model="SASRec", dataset="ml-100k", config_dict={"train_neg_sample_args": None})
    before = config["data_path"]
    place(config, tmp_path / "x.pth", str(tmp_path / "mine"), "cpu")
    assert config["data_path"] == before
    (tmp_path / "mine" / "ml-100k" / "ml-100k.inter").write_text("user_id:token\titem_id:token\n")
    place(config, tmp_path / "x.pth", str(tmp_path / "mine"), "cpu")
    assert config["data_path"] == str(tmp_path / "mine" / "ml-100k")
