"""A tiny multimodal dataset on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_prism.features import write_features

N_USERS, N_ITEMS = 24, 20


def write_dataset(folder: Path, name: str = "tiny", *, seed: int = 0, lengths=(4, 12)) -> Path:
    """Interactions, item fields, and features of two modalities (item i20 has no image). Returns the data_path."""
    rng = np.random.default_rng(seed)
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(N_USERS):
        for step, item in enumerate(rng.integers(1, N_ITEMS + 1, size=rng.integers(*lengths))):
            rows.append(f"u{user}\ti{item}\t{rng.integers(1, 6)}\t{step}")
    rows += [f"u{item % 2}\ti{item}\t3\t{100 + item}" for item in range(1, N_ITEMS + 1)]
    (home / f"{name}.inter").write_text("\n".join(rows) + "\n")
    items = ["item_id:token\tcategory:token\tprice:float"]
    items += [f"i{i}\tc{i % 3}\t{i / 2}" for i in range(1, N_ITEMS + 1)]
    (home / f"{name}.item").write_text("\n".join(items) + "\n")
    tokens = [f"i{i}" for i in range(1, N_ITEMS + 1)]
    image = rng.normal(size=(N_ITEMS - 1, 6)).astype(np.float32)
    text = rng.normal(size=(N_ITEMS, 5)).astype(np.float32)
    write_features(home / f"{name}.image.safetensors", tokens[:-1], image, encoder="test image")
    write_features(home / f"{name}.text.safetensors", tokens, text, encoder="test text")
    return folder


def make_cold(data_path: Path, items: list[str], name: str = "tiny") -> None:
    """Take out the interactions of ``items``, but for one each, which becomes the last of a user."""
    file = data_path / name / f"{name}.inter"
    rows = [row for row in file.read_text().splitlines() if row.split("\t")[1] not in items]
    rows += [f"u{user}\t{item}\t3\t1000" for user, item in enumerate(items, 5)]
    file.write_text("\n".join(rows) + "\n")
