"""From raw files to one trained epoch, by the command line, with real images, a real encoder and a real model."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from recbole_prism.__main__ import main
from tests.prepare import prepare_raw as raw
from tests.prepare import tiny_clip  # skips without open_clip
from tests.prepare.misbehaving import serve


def test_raw_files_to_one_trained_epoch(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test"])
    checkpoint = tiny_clip.checkpoint(tmp_path)
    files = raw.amazon_2014(tmp_path)
    with serve() as server:
        lines = [
            line.replace("http://example.org/", server.url("ok/")).replace(".jpg", "") for line in raw.metadata_2014()
        ]
        raw.gz(files["metadata"], lines)
        assert (
            main(
                [
                    "prepare",
                    "amazon-2014",
                    "shop",
                    "--reviews",
                    str(files["reviews"]),
                    "--metadata",
                    str(files["metadata"]),
                ]
            )
            == 0
        )
        assert main(["images", "shop", "--allow-private"]) == 0
    options = ["--model", tiny_clip.NAME, "--pretrained", str(checkpoint), "--batch-size", "4"]
    assert main(["encode", "shop", *options]) == 0
    assert main(["inspect", "shop", "--sheet", "3"]) == 0
    printed = capsys.readouterr().out
    assert "items with text 7" in printed and "6 fetched" in printed and "nearest to" in printed

    from recbole.quick_start import run_recbole

    import recbole_prism

    recbole_prism.register()
    settings = {
        "data_path": str(tmp_path / "dataset"),
        "epochs": 1,
        "train_batch_size": 64,
        "eval_batch_size": 64,
        "hidden_size": 16,
        "inner_size": 16,
        "n_heads": 1,
        "n_layers": 1,
        "expert_hidden_size": 8,
        "fusion_hidden_size": 8,
        "topk": [5],
        "valid_metric": "MRR@5",
        "train_neg_sample_args": None,
        "checkpoint_dir": str(tmp_path / "saved"),
        "show_progress": False,
    }
    result = run_recbole(model="PRISM_SASRec", dataset="shop", config_dict=settings, saved=False)
    assert 0 <= result["test_result"]["recall@5"] <= 1


def test_commands_fail_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["prepare", "amazon-2018", "x", "--reviews", "missing.json.gz"],
        ["images", "x"],
        ["encode", "x", "--pretrained", "y"],
        ["inspect", "x"],
    ):
        assert main(arguments) == 1
        message = capsys.readouterr().err
        assert "no such file" in message and message.count("\n") == 1 and "Traceback" not in message


def test_every_command_adds_to_one_report(tmp_path):
    from recbole_prism.prepare import encode_dataset, inspect_dataset, prepare_dataset

    checkpoint = tiny_clip.checkpoint(tmp_path)
    prepare_dataset("amazon-2014", "d", data_path=tmp_path, **raw.amazon_2014(tmp_path))
    encode_dataset("d", data_path=tmp_path, model=tiny_clip.NAME, pretrained=str(checkpoint), modalities=["text"])
    inspect_dataset("d", data_path=tmp_path)
    report = json.loads((tmp_path / "d" / "d.report.json").read_text())
    assert set(report) == {"dataset", "prepare", "encode", "inspect"}
    assert report["encode"]["text"]["provenance"]["template"] == report["prepare"]["text_template"]


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['recbole-prism', '--help']\n"
        "import recbole_prism.__main__\n"
        "heavy = {'torch', 'pandas', 'httpx', 'PIL', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_open_clip_imports_whatever_torchvision_was_built_for():
    code = (
        "import sys; sys.argv[0] = 'recbole-prism'\n"
        "from recbole_prism.prepare.clip_import import import_open_clip\n"
        "assert import_open_clip() is import_open_clip() and import_open_clip().list_models()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
