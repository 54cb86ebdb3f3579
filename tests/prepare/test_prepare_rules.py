"""Filters, order, determinism, resuming, safety: what holds for every source."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_prism.errors import PRISMError
from recbole_prism.prepare import interactions as rules
from recbole_prism.prepare import prepare_dataset
from recbole_prism.prepare.clean import Template
from recbole_prism.prepare.files import DatasetFolder
from tests.prepare import prepare_raw as raw
from tests.prepare.prepare_raw import table


def test_equal_timestamps_keep_the_order_of_the_file(make, tmp_path):
    rows = [f"u,i{n},3,{100 if n < 40 else 99}" for n in range(50)]
    made = make("table", **table(tmp_path, rows))
    assert made.history("u") == [f"i{n}" for n in [*range(40, 50), *range(40)]]


def test_order_survives_recboles_float32_times(make, tmp_path):
    """RecBole's float32 cannot tell these times apart; its sort is stable, so the file's order must be right."""
    rows = [f"u,i{n},3,{1_700_000_000 + 50 - n}" for n in range(50)]
    made = make("table", **table(tmp_path, rows))
    assert made.history("u") == [f"i{n}" for n in reversed(range(50))]


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_times_may_be_in_any_unit_down_to_nanoseconds(make, tmp_path, unit):
    rows = [f"u,i{n},3,{(1_700_000_000 + 50 - n) * unit}" for n in range(50)]
    made = make("table", **table(tmp_path, rows))
    assert made.history("u") == [f"i{n}" for n in reversed(range(50))]
    assert float(made.inter[0]["timestamp"]) == (1_700_000_000 + 1) * unit


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1])  # pandas' NaT as a whole number, and its opposite
def test_the_ends_of_a_64_bit_number_are_no_times(make, tmp_path, value):
    made = make("table", **table(tmp_path, [f"u,a,1,{value}", "u,b,1,5"]))
    assert made.history("u") == ["b"]


def test_times_beyond_whole_numbers_are_missing():
    found, _ = rules.collect([(["u", "v", "w"], ["i", "i", "i"], [1.0] * 3, [1e19, -1e300, 5.0])])
    assert np.isnan(found.times).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("keep", ["a", "a", "b", "a"]), ("exact", ["a", "b", "a"]), ("first", ["a", "b"]), ("last", ["b", "a"])],
)
def test_duplicates(make, tmp_path, policy, expected):
    made = make("table", duplicates=policy, **table(tmp_path, ["u,a,1,10", "u,a,2,10", "u,b,3,20", "u,a,4,30"]))
    assert made.history("u") == expected


def test_missing_timestamps(make, tmp_path):
    options = table(tmp_path, ["u,a,1,20", "u,b,2,", "v,c,3,x", "u,d,4,10"])
    assert make("table", missing_timestamps="drop", **options).history("u") == ["d", "a"]
    made = make("table", missing_timestamps="order", **options)
    assert made.history("u") == ["d", "a", "b"] and made.history("v") == ["c"]
    with pytest.raises(PRISMError, match="2 of 4 interactions have no usable timestamp"):
        make("table", missing_timestamps="error", **options)


def test_what_is_left_out_is_printed(make, tmp_path):
    from recbole_prism.prepare import prepare

    rows = ["u,a,1,1", "u,b,1,2", "u,b,1,2", "v,a,1,1", "v,b,1,2", "w,z,1,2", "u,c,1,", "u,NA,1,3"]
    made = make("table", k_core=2, **table(tmp_path, rows))
    printed = list(prepare._summary(prepare.DatasetFolder("made", tmp_path), made.report))
    assert (
        "4 of 8 interactions kept; left out: 1 with an unusable id, 1 without timestamp, 1 repeated, 1 by k-core"
        in printed
    )


def test_no_timestamps_at_all(make, tmp_path):
    options = table(tmp_path, ["u,b,1,", "u,a,1,"])
    with pytest.raises(PRISMError, match="--missing-timestamps order"):
        make("table", **options)
    assert make("table", missing_timestamps="order", **options).history("u") == ["b", "a"]


def test_k_core_is_iterated(make, tmp_path):
    # w has two, but only until z, reviewed once, is gone
    rows = ["u,a,1,1", "u,b,1,2", "v,a,1,1", "v,b,1,2", "w,a,1,1", "w,z,1,2"]
    made = make("table", k_core=2, **table(tmp_path, rows))
    assert {row["user_id"] for row in made.inter} == {"u", "v"} and set(made.item) == {"a", "b"}
    with pytest.raises(PRISMError, match="no interaction is left"):
        make("table", k_core=4, **table(tmp_path, rows))


def test_ids_that_recbole_would_misread_are_left_out(make, tmp_path):
    rows = ["u,NA,1,1", "nan,a,1,2", "u,[PAD],1,3", "u,a,1,4", f"u,{'x' * 300},1,5", "u, b ,1,6"]
    made = make("table", **table(tmp_path, rows))
    assert [(row["user_id"], row["item_id"]) for row in made.inter] == [("u", "a"), ("u", "b")]
    assert made.report["counts"]["unusable_id"] == 4


def test_recbole_reads_back_what_was_written(make, tmp_path):
    import pandas as pd

    rows = ['"u""1",a b,5,1', '"""u""",é,4.5,2']
    made = make("table", **table(tmp_path, rows))
    frame = pd.read_csv(made.folder / "made.inter", delimiter="\t", engine="python", dtype={0: str, 1: str})
    assert frame["user_id:token"].tolist() == ['u"1', '"u"'] and frame["item_id:token"].tolist() == ["a b", "é"]
    assert frame["rating:float"].tolist() == [5.0, 4.5]


def test_output_is_deterministic_and_done_only_once(make, tmp_path):
    files = raw.amazon_2014(tmp_path)
    first = make("amazon-2014", name="one", **files)
    second = make("amazon-2014", name="two", **files)
    for suffix in ("inter", "item", "texts.jsonl", "images.jsonl"):
        assert (first.folder / f"one.{suffix}").read_bytes() == (second.folder / f"two.{suffix}").read_bytes()
    again = prepare_dataset("amazon-2014", "one", data_path=tmp_path / "dataset", **files)
    assert again["already_done"]
    changed = prepare_dataset("amazon-2014", "one", data_path=tmp_path / "dataset", k_core=0, **files)
    assert "already_done" not in changed


def test_report_holds_inputs_options_counts_versions(make, tmp_path):
    import hashlib

    files = raw.amazon_2014(tmp_path)
    report = make("amazon-2014", **files).report
    assert report["inputs"]["reviews"]["sha256"] == hashlib.sha256(files["reviews"].read_bytes()).hexdigest()
    assert report["inputs"]["metadata"]["bytes"] == files["metadata"].stat().st_size
    assert report["options"]["k_core"] == 5 and report["options"]["duplicates"] == "exact"
    assert report["statistics"]["users"] == 12 and report["versions"]["recbole-prism"]


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "", "a\0b", "-x"])
def test_a_dataset_name_cannot_leave_the_folder(name):
    with pytest.raises(PRISMError, match="dataset name"):
        DatasetFolder(name)


def test_options_of_python_may_be_those_of_the_command_line(make, tmp_path):
    options = table(tmp_path, ["u,a,1,1", "u,b,1,2"])
    assert make("table", k_core="off", images_per_item="2", **options).report["options"]["k_core"] == 0
    assert make("table", k_core="1", **options).report["options"]["k_core"] == 1
    for option, value, message in (
        ("k_core", -3, "k_core -3: 'off' or a whole number"),
        ("k_core", "many", "k_core 'many': 'off' or a whole number"),
        ("max_bad_lines", "x", "max_bad_lines 'x': a number is needed"),
        ("images_per_item", "x", "images_per_item 'x': a number is needed"),
    ):
        with pytest.raises(PRISMError, match=message):
            make("table", **{option: value}, **options)


def test_unknown_options_and_sources_are_errors(make):
    with pytest.raises(PRISMError, match="unknown source 'amazon-2015'.*did you mean"):
        make("amazon-2015")
    with pytest.raises(PRISMError, match="unknown options"):
        make("amazon-2014", kcore=5)
    with pytest.raises(PRISMError, match="text template names unknown fields"):
        Template("{nothing}", {"title"})


KILLED = """
import sys
sys.argv[0] = "recbole-prism"  # as from the command line: nothing registers with RecBole
from recbole_prism.prepare import interactions, atomic, prepare_dataset
import os, signal
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
module, function = sys.argv[1].split(".")
setattr({"atomic": atomic, "interactions": interactions}[module], function, die)
prepare_dataset("amazon-2014", "made", data_path=sys.argv[2], reviews=sys.argv[3], metadata=sys.argv[4])
"""


@pytest.mark.parametrize("where", ["interactions.in_order", "atomic.write_items", "atomic.write_yaml"])
def test_killed_anywhere_it_resumes_to_the_same_files(make, tmp_path, where, monkeypatch):
    files = raw.amazon_2014(tmp_path)
    expected = make("amazon-2014", name="whole", **files)
    arguments = [where, str(tmp_path / "dataset"), str(files["reviews"]), str(files["metadata"])]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "dataset" / "made"
    assert not (folder / "made.report.json").exists()
    if where != "interactions.in_order":  # the pass over the reviews is not repeated
        monkeypatch.setattr(rules, "collect", None)
    made = make("amazon-2014", **files)
    for suffix in ("inter", "item", "texts.jsonl", "images.jsonl"):
        assert (folder / f"made.{suffix}").read_bytes() == (expected.folder / f"whole.{suffix}").read_bytes()
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(
        f"made.{suffix}" for suffix in ("inter", "item", "texts.jsonl", "images.jsonl", "yaml", "report.json")
    )


def test_memory_does_not_grow_with_text(tmp_path):
    """120 MB of review text pass through a process that is allowed little more than its imports."""
    import gzip

    path = tmp_path / "r.json.gz"
    rows = raw.reviews_2014(40, 8)
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for row in rows * 5:
            stream.write(json.dumps({**row, "reviewText": "x" * 100_000}).encode() + b"\n")
    code = (
        "import resource, sys; sys.argv[0] = 'recbole-prism'\n"
        "from recbole_prism.prepare import prepare, prepare_dataset\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "prepare_dataset('amazon-2018', 'm', data_path=sys.argv[1], reviews=sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(path)], capture_output=True, text=True)
    assert int(grown.stdout) < 60_000, grown  # kilobytes


def test_nothing_but_the_dataset_folder_is_written(make, tmp_path):
    files = raw.amazon_2014(tmp_path)
    before = {path for path in tmp_path.rglob("*")}
    make("amazon-2014", **files)
    new = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert new == {"dataset"}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=60), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_k_core_and_order_agree_with_a_plain_computation(rows, k):
    blocks = [tuple(zip(*[(f"u{u}", f"i{i}", 1.0, float(t)) for u, i, t in rows], strict=True))] if rows else []
    data, dropped = rules.collect(blocks)
    assert dropped == 0
    data, _ = rules.k_core(rules.drop_duplicates(data, "exact"), k)
    plain = list(dict.fromkeys(rows))
    while True:
        kept = [r for r in plain if sum(r[0] == q[0] for q in plain) >= k and sum(r[1] == q[1] for q in plain) >= k]
        if kept == plain:
            break
        plain = kept
    users = list(dict.fromkeys(row[0] for row in rows))
    plain = [row for user in users for row in sorted((r for r in plain if r[0] == user), key=lambda r: r[2])]
    data = rules.in_order(data.compact())
    got = [
        (int(data.user_ids[u][1:]), int(data.item_ids[i][1:]), int(t))
        for u, i, t in zip(data.users, data.items, data.times, strict=True)
    ]
    assert got == plain


def test_hostile_lines_are_parsed_without_being_run(make, tmp_path):
    marker = tmp_path / "owned"
    evil = f"{{'asin': __import__('pathlib').Path({str(marker)!r}).touch(), 'title': 'x'}}"
    deep = "{'asin': " + "[" * 5000 + "]" * 5000 + "}"
    files = raw.amazon_2014(tmp_path)
    raw.gz(files["metadata"], [evil, deep, *raw.metadata_2014()])
    made = make("amazon-2014", **files)
    assert not marker.exists()
    assert sum(row["lines"] for row in made.report["bad_lines"]) == 2


def test_yaml_names_the_only_modality_there_is(make, tmp_path):
    import yaml

    made = make("movielens", **raw.movielens(tmp_path / "ml", "1m"))
    settings = yaml.safe_load((made.folder / "made.yaml").read_text())
    assert settings["modalities"] == ["text"]
    assert settings["load_col"] == {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    both = make("amazon-2014", name="both", **raw.amazon_2014(tmp_path))
    assert "modalities" not in yaml.safe_load((both.folder / "both.yaml").read_text())
