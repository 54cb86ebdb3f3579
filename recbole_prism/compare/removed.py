"""A trained model tested again while items lack features at random."""

from __future__ import annotations

from contextlib import ExitStack

import torch

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


def removed_features(trainer, test_data, *, seed: int) -> dict[str, dict[str, float]] | None:
    """{rate: {metric: value}}; None for models without modalities.

    Each item lacks each modality with that probability, in histories and as a candidate, as items without features do.
    The model is left as it was.
    """
    model = trainer.model
    if not hasattr(model, "modalities"):
        return None
    modalities, results = model.modalities, {}
    generator = torch.Generator().manual_seed(seed)
    covered = {name: getattr(modalities, f"covered_{name}") for name in modalities.names}
    drawn = {name: torch.rand(len(has), generator=generator).to(has.device) for name, has in covered.items()}
    for rate in RATES:
        with ExitStack() as stack:
            for name in modalities.names:
                stack.enter_context(modalities.lacking(name, drawn[name] < rate))
            found = trainer.evaluate(test_data, load_best_model=False, show_progress=False)
        results[str(rate)] = {metric: float(value) for metric, value in found.items()}
    return results
