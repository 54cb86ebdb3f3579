"""The explicit table of models; cheap to import (no torch, no RecBole).

Every RecBole sequential model that embeds items through ``item_embedding`` is a row of ``BACKBONES`` and becomes
``PRISM_<Backbone>`` and ``MRdIB_<Backbone>``, the same class with another default fusion (:mod:`.factory` makes it).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from recbole_prism.errors import PRISMError


@dataclass(frozen=True)
class Backbone:
    """What the glue must know of a backbone.

    causal: its state at a position depends on items up to there only; scopes: values of ``fusion_scope``, the default
    first; losses: values of ``loss_type``; content: candidates are scored with ``item_embedding``, so that
    ``score_items: content`` means something; rows: which dataset class makes its rows; needs: data or keys a run has to
    bring; own_file: a module of its own, with its yaml; keys_of: the model of RecBole's whose yaml it has, if not its
    own name's; defaults: of keys that RecBole's yaml does not have.
    """

    causal: bool = False
    scopes: tuple[str, ...] = ("sequence", "causal")
    losses: tuple[str, ...] = ("CE", "BPR")
    content: bool = True
    rows: str = "PrefixDataset"
    needs: str = ""
    own_file: bool = False
    keys_of: str = ""
    defaults: dict = field(default_factory=dict)


PAST = {"causal": True}
CAUSAL = {"causal": True, "scopes": ("causal", "sequence")}  # one pass over a sequence needs the scope that is causal
GRAPH = {"scopes": ("sequence",)}
ITEM_FIELDS = "selected_features: fields of the .item file"
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
KNOWLEDGE = "pre-trained entity vectors (.ent, .link; RecBole's additional_feat_suffix, alias and preload_weight)"

BACKBONES: dict[str, Backbone] = {
    "BERT4Rec": Backbone(own_file=True),
    "Caser": Backbone(),
    "CORE": Backbone(losses=("CE",)),
    "FDSA": Backbone(needs=ITEM_FIELDS, **CAUSAL),
    "FEARec": Backbone(
        rows="SequentialDataset",  # compares histories that RecBole keeps with every row
        defaults={"contrast": "us_x", "tau": 1, "sim": "dot"},  # read by its code, absent from its yaml
    ),
    "FOSSIL": Backbone(),
    "GCSAN": Backbone(**GRAPH),
    "GRU4Rec": Backbone(own_file=True, **CAUSAL),
    "GRU4RecCPR": Backbone(losses=("CE",), needs="full-sort evaluation", **PAST),
    "GRU4RecF": Backbone(needs=ITEM_FIELDS, **CAUSAL),
    "GRU4RecKG": Backbone(
        rows="GRU4RecKGDataset",
        needs=KNOWLEDGE,
        defaults={"eval_args": LEAVE_ONE_OUT},  # RecBole forgets it for these two
        **PAST,
    ),
    "HGN": Backbone(content=False),
    "HRM": Backbone(),
    "KSR": Backbone(rows="KSRDataset", needs=KNOWLEDGE, defaults={"eval_args": LEAVE_ONE_OUT}, **PAST),
    "LightSANs": Backbone(),
    "NARM": Backbone(),
    "NextItNet": Backbone(),
    "NPE": Backbone(),
    "S3Rec": Backbone(needs="item_attribute: a field of the .item file; train_stage pretrain, then finetune"),
    "SASRec": Backbone(own_file=True, **CAUSAL),
    "SASRecCPR": Backbone(losses=("CE",), needs="full-sort evaluation", **PAST),
    "SASRecF": Backbone(needs=ITEM_FIELDS, **CAUSAL),
    "SHAN": Backbone(),
    "SINE": Backbone(),
    "SRGNN": Backbone(**GRAPH),
    "STAMP": Backbone(),
}

FIELDS = tuple(name for name, backbone in BACKBONES.items() if backbone.needs == ITEM_FIELDS)  # these read them

REFUSED = {  # backbone: why it cannot be wrapped
    "DIEN": "it embeds all fields of an item together in one context layer, and has no item_embedding",
    "DIN": "it embeds all fields of an item together in one context layer, and has no item_embedding",
    "FPMC": "it factorises (user, item) and (last item, item) pairs with tables of their own, and reads no sequence",
    "RepeatNet": "it embeds items through item_matrix and copies scores from the history, where nothing could be added",
    "TransRec": "it looks up the last item only, so there is no history whose modalities could be fused",
}

FAMILIES = {"PRISM": "prism", "MRdIB": "mrdib"}  # first part of a model's name: its default fusion
MODELS = {f"{family}_{backbone}": backbone for family in FAMILIES for backbone in BACKBONES}  # name: RecBole's backbone


def defaults(model: str) -> dict:
    """Defaults of our keys that depend on the model, over those of PRISM.yaml."""
    backbone = BACKBONES[MODELS[model]]
    fusion = FAMILIES.get(model.partition("_")[0], "prism")
    return {"fusion_scope": backbone.scopes[0], "fusion": fusion, **backbone.defaults}


def refuse(model: str) -> None:
    """Raise PRISMError with the reason if ``model`` is one of ours on a backbone that cannot be wrapped."""
    family, _, backbone = model.partition("_")
    by_folded = {name.casefold(): name for name in REFUSED}
    name = by_folded.get(backbone.casefold())
    if name and family.casefold() in {known.casefold() for known in FAMILIES}:
        raise PRISMError(f"{model}: RecBole's {name} cannot be wrapped: {REFUSED[name]}; see `recbole-prism models`")


def backbone_of(model: str) -> str:
    """RecBole's model behind one of ours; any other name is its own."""
    return MODELS.get(model, model)
