"""The explicit table of models; cheap to import."""

MODELS = {  # name: RecBole's backbone
    "PRISM_SASRec": "SASRec",
    "PRISM_GRU4Rec": "GRU4Rec",
    "PRISM_BERT4Rec": "BERT4Rec",
}
