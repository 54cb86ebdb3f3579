"""Faults of atomic files are named with file and field, before anything is read."""

import re

import pytest
from recbole.config import Config

from recbole_prism.errors import PRISMError

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


@pytest.fixture
def configure(settings):
    def make(model, **overrides):
        given = {"train_neg_sample_args": None} if model == "SASRec" else {}
        return Config(model=model, dataset="tiny", config_dict={**settings, **given, **overrides})

    return make


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("\ufeff" + HEADER, "begins with a byte order mark; set encoding: utf-8-sig"),
        (HEADER.replace("item_id:token", "item_id"), "must name fields as name:type .* 'item_id' is none"),
        (HEADER.replace("\t", ","), "with '\\t' between them"),
        (HEADER + "\t", "'' is none"),
        ("", "'' is none"),
        (HEADER.replace("token", "word"), "'user_id:word' is none"),
        (HEADER.replace("item_id", "item"), "has no field 'item_id'.*did you mean 'item'.*set ITEM_ID_FIELD"),
        (HEADER.replace("timestamp", "time"), "has no field 'timestamp'.*set TIME_FIELD"),
    ],
)
@pytest.mark.parametrize("model", ["PRISM_SASRec", "SASRec"])
def test_a_first_line_that_cannot_be_read_is_named(configure, data_path, model, header, message):
    file = data_path / "tiny" / "tiny.inter"
    body = file.read_text().split("\n", 1)[1]
    file.write_text(f"{header}\n{body}", encoding="utf-8")
    with pytest.raises(PRISMError, match=re.escape(str(file)) + ".*" + message.replace("\\t", r"\\t")):
        configure(model)


def test_what_recbole_reads_is_accepted(configure, data_path):
    file = data_path / "tiny" / "tiny.inter"
    text = file.read_text()
    file.write_text(text, encoding="utf-8-sig")
    assert configure("PRISM_SASRec", encoding="utf-8-sig")
    file.write_text(text.replace("\t", ";").replace("timestamp", "zeit"), encoding="utf-8")
    load_col = {"inter": ["user_id", "item_id", "zeit"]}
    assert configure("PRISM_SASRec", field_separator=";", TIME_FIELD="zeit", load_col=load_col)
    assert configure("Pop", field_separator=";", train_neg_sample_args={"sample_num": 1})  # needs no times
    file.unlink()
    assert configure("PRISM_SASRec")  # RecBole says what is missing, or loads what it has saved


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (
            "PRISM_GRU4RecF",
            {},
            "selected_features: GRU4RecF needs 'class' of .*tiny.item, which has item_id, category, ",
        ),
        ("SASRecF", {"selected_features": ["categori"]}, "'categori' of"),
        (
            "PRISM_FDSA",
            {"selected_features": ["category"]},
            r"'category' is not loaded; .*, item: \[item_id, category\]",
        ),
        ("PRISM_S3Rec", {"train_stage": "pretrain"}, "item_attribute: S3Rec needs 'class'"),
    ],
)
def test_item_fields_that_a_backbone_embeds_must_be_there(configure, data_path, model, given, message):
    given = {**given, "train_neg_sample_args": None}
    with pytest.raises(PRISMError, match=message):
        configure(model, **given)
    (data_path / "tiny" / "tiny.item").unlink()
    with pytest.raises(PRISMError, match="tiny.item, which is not there"):
        configure(model, **given)


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [
        ("PRISM_SASRecF", "selected_features", "'price' of .*tiny.item holds numbers; name it in numerical_features"),
        ("FDSA", "selected_features", "name it in numerical_features"),
        ("PRISM_S3Rec", "item_attribute", "holds numbers, and S3Rec needs a token or token_seq field"),
    ],
)
def test_numbers_are_embedded_only_where_recbole_does(configure, model, key, message):
    load_col = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]}
    given = {key: ["price"] if key == "selected_features" else "price", "load_col": load_col}
    given |= {"train_neg_sample_args": None, "train_stage": "pretrain"}
    with pytest.raises(PRISMError, match=message):
        configure(model, **given)
    if key == "selected_features":
        assert configure(model, **given, numerical_features=["price"])[key] == ["price"]


@pytest.mark.parametrize("model", ["PRISM_SASRec", "SASRec", "BPR"])
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (b"soon", "line 8: timestamp must be a number, is 'soon'"),
        (b"7\xe9", "line 8: is not utf-8 .*set encoding"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(settings, data_path, model, cell, message):
    from recbole.data import create_dataset

    file = data_path / "tiny" / "tiny.inter"
    lines = file.read_bytes().split(b"\n")
    lines[7] = lines[7].rpartition(b"\t")[0] + b"\t" + cell
    file.write_bytes(b"\n".join(lines))
    given = {} if model == "BPR" else {"train_neg_sample_args": None}
    config = Config(model=model, dataset="tiny", config_dict={**settings, **given})
    with pytest.raises(PRISMError, match=re.escape(f"{file}, ") + message):
        create_dataset(config)


def test_other_faults_stay_recboles(settings, data_path):
    from recbole.data import create_dataset

    config = Config(model="PRISM_SASRec", dataset="tiny", config_dict=settings)
    (data_path / "tiny" / "tiny.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    with pytest.raises(Exception, match=r"(?s)^(?!.*line ).*$") as raised:
        create_dataset(config)
    assert not isinstance(raised.value, PRISMError)


@pytest.mark.parametrize("model", ["PRISM_SASRec", "SASRec"])
def test_fields_that_are_not_loaded_are_named(configure, model):
    with pytest.raises(PRISMError, match=r"TIME_FIELD: 'timestamp' is not loaded; .*\[user_id, item_id, timestamp\]"):
        configure(model, load_col={"inter": ["user_id", "item_id"]})
    assert configure("Pop", load_col={"inter": ["user_id", "item_id"]}, train_neg_sample_args={"sample_num": 1})
    assert configure(model, load_col={"inter": "*"}) and configure(model, load_col=None)


def test_context_aware_models_may_have_neither_users_nor_items(data_path, settings):
    own = {"USER_ID_FIELD": None, "ITEM_ID_FIELD": None, "load_col": None, "train_neg_sample_args": None}
    config = Config(model="LR", dataset="tiny", config_dict={**settings, **own, "valid_metric": "AUC"})
    assert config["USER_ID_FIELD"] is None
