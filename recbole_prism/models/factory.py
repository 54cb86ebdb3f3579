"""``PRISM_<Model>`` for every RecBole sequential model that embeds items through ``item_embedding``.

A class is made when it is first asked for, as an attribute of this module: ``factory.PRISM_NARM``. So pickled classes
are found again in a new process, and importing this package does not import 26 models.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path

from recbole_prism.errors import PRISMError, suggest
from recbole_prism.models.table import BACKBONES, FAMILIES, MODELS, REFUSED, Backbone, refuse

RECBOLE = "recbole.model.sequential_recommender"


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    refuse(name)
    if name not in MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggest(name, MODELS)}")
    globals()[name] = _build(name)
    return globals()[name]


def _build(name: str) -> type:
    """The class of a row of ``MODELS``: its own file's, or made from RecBole's class."""
    backbone = MODELS[name]
    if not name.startswith("PRISM_"):
        return _make(name, (getattr(sys.modules[__name__], f"PRISM_{backbone}"),), __name__)
    if BACKBONES[backbone].own_file:
        return getattr(importlib.import_module(f"recbole_prism.models.{name.lower()}"), name)
    from recbole_prism.models import special

    original = getattr(importlib.import_module(f"{RECBOLE}.{backbone.lower()}"), backbone)
    return _make(name, (special.MIXINS.get(backbone, special.PRISMMixin), original), __name__)


def _make(name: str, bases: tuple[type, ...], module: str) -> type:
    text = f"{bases[-1].__name__} whose item inputs carry fused modalities; see ``recbole_prism.mixin.PRISMMixin``."
    return type(name, bases, {"__module__": module, "__qualname__": name, "__doc__": text})


def register_model(name: str) -> None:
    """Let RecBole find the model, its dataset and its trainer under its name."""
    import recbole.data.dataset as datasets
    import recbole.trainer as trainers

    from recbole_prism.training import modes

    modes.register_ours(name)
    sys.modules.setdefault(f"{RECBOLE}.{name.lower()}", sys.modules[__name__])
    rows = BACKBONES[MODELS[name]].rows
    if rows != "PrefixDataset":
        setattr(datasets, f"{name}Dataset", getattr(datasets, rows))
    if MODELS[name] == "S3Rec":
        from recbole_prism.models.special import PRISM_S3RecTrainer

        setattr(trainers, f"{name}Trainer", PRISM_S3RecTrainer)


class _Unknown(importlib.abc.MetaPathFinder):
    """Asking RecBole for ``PRISM_FPMC`` tells why there is none, for ``PRISM_SASRek`` what it is called.

    RecBole's ``get_model`` looks for a module of that name in folder after folder, the last of which needs lightgbm.
    """

    def find_spec(self, fullname: str, path=None, target=None):
        folder, _, name = fullname.rpartition(".")
        if folder == RECBOLE and name.partition("_")[0] in {family.lower() for family in FAMILIES} and "_" in name:
            return importlib.machinery.ModuleSpec(fullname, _Refusing())
        return None


class _Refusing(importlib.abc.Loader):
    """A module without a model, whose every name is an error."""

    def exec_module(self, module: types.ModuleType) -> None:
        module.__getattr__ = _refuse_unknown


def _refuse_unknown(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    refuse(name)
    raise PRISMError(f"{name}: no such model{suggest(name, MODELS)}; import its module first if it is one of yours")


def register_refused() -> None:
    """Let RecBole say what is wrong with a name that begins like ours."""
    sys.meta_path.append(_Unknown())


def plug(
    backbone: type,
    *,
    causal: bool = False,
    defaults: dict | None = None,
    module: str | None = None,
) -> type:
    """``PRISM_<Backbone>`` from a user's own ``SequentialRecommender`` subclass, registered with RecBole.

    Assign it under its own name in a module, so that checkpoints can be loaded: ``PRISM_Mine = plug(Mine)``. The
    backbone must look items up by calling ``self.item_embedding`` on its history [B, L] in ``forward``. ``causal``: its
    state at a position depends on items up to there only (then it is fused per position by default); ``defaults``: its
    own configuration keys, over those in the yaml file of the nearest class of RecBole that it is made from;
    ``loss_type`` is CE unless they, or its ``input_type``, say otherwise; ``module``: where the class is assigned, if
    not where ``plug`` is called. Raises PRISMError for what is no such class, or carries PRISM, and for a name that
    RecBole has.
    """
    from recbole.model.abstract_recommender import SequentialRecommender

    from recbole_prism.mixin import PRISMMixin
    from recbole_prism.register import register

    if not (isinstance(backbone, type) and issubclass(backbone, SequentialRecommender)):
        raise PRISMError(f"plug: {backbone!r} is no subclass of RecBole's SequentialRecommender")
    if issubclass(backbone, PRISMMixin):
        raise PRISMError(f"plug: {backbone.__name__} carries PRISM already")
    name = f"PRISM_{backbone.__name__}"
    known = MODELS.get(name)
    if known in BACKBONES and known not in _PLUGGED or backbone.__name__ in REFUSED:
        raise PRISMError(f"plug: {backbone.__name__} is a name of RecBole's; give the class another one")
    register()
    module = module or sys._getframe(1).f_globals.get("__name__", "__main__")
    made = _make(name, (PRISMMixin, backbone), module)
    scopes = ("causal", "sequence") if causal else ("sequence", "causal")
    loss = {} if hasattr(backbone, "input_type") else {"loss_type": "CE"}
    defaults = {**loss, **(defaults or {})}
    losses = tuple(dict.fromkeys(["CE", "BPR", defaults.get("loss_type", "CE")]))
    BACKBONES[backbone.__name__] = Backbone(
        causal=causal, scopes=scopes, losses=losses, defaults=defaults, keys_of=_made_from(backbone)
    )
    MODELS[name] = backbone.__name__
    _PLUGGED.add(backbone.__name__)
    where = f"{RECBOLE}.{name.lower()}"
    sys.modules[where] = holder = types.ModuleType(where)
    holder.__spec__ = importlib.machinery.ModuleSpec(where, None)
    setattr(holder, name, made)
    register_model(name)
    return made


def _made_from(backbone: type) -> str:
    """The nearest of RecBole's classes that a backbone is made from and that has a yaml file; or its own name."""
    import recbole

    folder = Path(recbole.__file__).parent / "properties" / "model"
    names = [base.__name__ for base in backbone.__mro__ if base.__module__.startswith("recbole.")]
    return next((name for name in names if (folder / f"{name}.yaml").is_file()), backbone.__name__)


_PLUGGED: set[str] = set()
