"""What a search may draw: keys that the model reads, with the fusion that all of its trials have."""

from __future__ import annotations

from collections.abc import Iterable

from recbole_prism.errors import PRISMError
from recbole_prism.tune_space import Parameter


def fusion_in(model: str, dataset: str, settings: dict) -> str | None:
    """The fusion of all trials; None for RecBole's own models."""
    from recbole_prism.compare.plan import fusion_of, given_settings
    from recbole_prism.models.table import MODELS

    if model not in MODELS:
        return None
    return given_settings(dataset, settings).get("fusion") or fusion_of(model)


def default_space(model: str, fusion: str | None) -> str:
    """``mrdib`` for models with that fusion, ``prism`` for our others, for RecBole's the space of their name.

    Raises PRISMError if there is none.
    """
    from recbole_prism.tune_space import our_spaces

    if fusion is not None:
        return "mrdib" if fusion == "mrdib" else "prism"
    if model.lower() not in our_spaces():
        raise PRISMError(f"--space: {model} has none of its own here; name a hyper file of its keys")
    return model.lower()


def unused(model: str, fusion: str, names: Iterable[str]) -> list[str]:
    """Keys that a model of ours could not use."""
    from recbole_prism.fusion_keys import without_effect
    from recbole_prism.models.table import BACKBONES, MODELS

    content = [] if BACKBONES[MODELS[model]].content else [name for name in names if name == "score_items"]
    return [*content, *without_effect(fusion, names)]


def effective(space: list[Parameter], model: str, fusion: str | None) -> list[Parameter]:
    """A space of ours without the keys that the model could not use."""
    dropped = unused(model, fusion, [parameter.name for parameter in space]) if fusion else []
    return [parameter for parameter in space if parameter.name not in dropped]


def check_keys(model: str, settings: dict, space: list[Parameter], fusion: str | None) -> None:
    """Raise PRISMError for keys that a model does not read: all trials would be one, or the baseline's."""
    from recbole_prism.compare.plan import check_keys as check_known
    from recbole_prism.run import check_read

    drawn = {parameter.name: parameter.example() for parameter in space}
    if fusion is not None:  # the others' Config checks the rest
        if "fusion" not in drawn and (without := unused(model, fusion, drawn)):
            raise PRISMError(f"{without[0]}: has no effect on {model} with fusion: {fusion}; leave it out of the space")
        return
    check_known(model, {**settings, **drawn})
    unread = check_read([model], settings, drawn)
    if unread:
        raise PRISMError(f"{unread[0]}: has no effect on {model}, only on PRISM models; leave it out of the space")
