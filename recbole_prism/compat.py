"""RecBole 1.2.1 on current numpy, scipy, torch and without ray.

Each cure is one function that names the RecBole line it mends, does nothing where nothing is broken, and returns a
sentence for ``recbole-prism doctor`` if it mended something. ``apply()`` runs them once, before RecBole is imported.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import types
from collections.abc import Callable

MENDED: dict[str, str] = {}


def numpy_aliases() -> str | None:
    """config/configurator.py:630-635 reads ``np.float_``, ``np.complex_`` and ``np.unicode_``, gone in numpy 2.

    It sets ``np.float`` and others, which the rest of RecBole reads, where a Config is made; one that comes with a
    checkpoint is not made.
    """
    import numpy as np

    aliases = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
    aliases |= {"bool": np.bool_, "int": np.int_, "float": np.float64, "complex": np.complex128, "object": np.object_}
    aliases |= {"str": np.str_, "long": np.int_, "unicode": np.str_}
    missing = [name for name in aliases if name not in np.__dict__]
    for name in missing:
        setattr(np, name, aliases[name])
    return f"numpy {np.__version__}: restored {', '.join('np.' + name for name in missing)}" if missing else None


def ray_stub() -> str | None:
    """quick_start/quick_start.py:20 imports ``ray.tune`` for one ``tune.report``; ray 2.6.3 rarely installs today.

    A ray that imports is left alone.
    """
    if "ray" in sys.modules:
        return None
    if importlib.util.find_spec("ray") is not None:
        try:
            import ray.tune  # noqa: F401

            return None
        except (
            Exception
        ) as error:  # ray 2.6.3 dies with AttributeError (np.bool8) or ModuleNotFoundError (pkg_resources)
            reason = f"{type(error).__name__}: {error}"
            for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
                del sys.modules[name]
    else:
        reason = "not installed"
    ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
    tune.report = lambda *args, **metrics: None
    ray.tune = tune
    for module in (ray, tune):
        module.__spec__ = importlib.util.spec_from_loader(module.__name__, loader=None)
        module.__doc__ = "Stand-in by recbole_prism.compat; see ray_stub."
    sys.modules.update({"ray": ray, "ray.tune": tune})
    return f"ray ({reason}): stubbed for recbole.quick_start"


def checkpoint_loading() -> str | None:
    """trainer/trainer.py:323 and :583, quick_start.py:250, s3rec.py:120 call ``torch.load`` on a pickled Config.

    Since torch 2.6 ``weights_only`` is True by default and refuses it. Only calls made from RecBole's own modules get
    the old default back; everybody else's ``torch.load`` is what it was.
    """
    import torch

    if _version(torch.__version__) < (2, 6) or hasattr(torch.load, "__wrapped__"):
        return None
    load = torch.load

    @functools.wraps(load)
    def load_for_recbole(*args, **kwargs):
        if sys._getframe(1).f_globals.get("__name__", "").startswith("recbole."):
            kwargs.setdefault("weights_only", False)
        return load(*args, **kwargs)

    torch.load = load_for_recbole
    return f"torch {torch.__version__}: RecBole's own checkpoint calls load with weights_only=False"


def sparse_update() -> str | None:
    """lightgcn.py:111, ngcf, gcmc, spectralcf, ncl, kgin and mcclk call ``dok_matrix._update``, gone in scipy 1.14."""
    import scipy
    from scipy.sparse import dok_matrix

    if hasattr(dok_matrix, "_update"):
        return None
    dok_matrix._update = lambda self, data: self._dict.update(data)
    return f"scipy {scipy.__version__}: restored dok_matrix._update"


def anomaly_detection() -> str | None:
    """model/sequential_recommender/sine.py:25 switches autograd's anomaly detection on for every model at import.

    It costs a quarter to a third of each training step. Importing RecBole's models first and switching it off leaves
    ``torch.autograd.set_detect_anomaly(True)`` to whoever calls it afterwards.
    """
    import recbole.model.sequential_recommender  # noqa: F401
    import torch

    if not torch.is_anomaly_enabled():
        return None
    torch.autograd.set_detect_anomaly(False)
    return "autograd anomaly detection, switched on by RecBole's sine.py: off"


def exhaustive_search() -> str | None:
    """trainer/hyper_tuning.py:117 hands hyperopt a RandomState; hyperopt >= 0.2.6 calls ``rng.integers`` on it."""
    import numpy as np
    import recbole.trainer.hyper_tuning as hyper_tuning

    if isinstance(hyper_tuning.np, View):
        return None

    class RandomState(np.random.RandomState):
        def integers(self, *args, **kwargs):
            return self.randint(*args, **kwargs)

    hyper_tuning.np = View(np, random=View(np.random, RandomState=RandomState))
    return "hyperopt: RecBole's exhaustive search draws from a RandomState that knows integers()"


def counts_of_metrics() -> str | None:
    """evaluator/collector.py:227 calls ``.cpu()`` on counts, which ItemCoverage and others need."""
    from recbole.evaluator import Collector
    from torch import Tensor

    gather = Collector.get_data_struct
    if hasattr(gather, "__wrapped__"):
        return None

    @functools.wraps(gather)
    def get_data_struct(self):
        gathered = self.data_struct._data_dict
        counts = {name: gathered.pop(name) for name in list(gathered) if not isinstance(gathered[name], Tensor)}
        collected = gather(self)
        gathered.update(counts)
        collected._data_dict.update(counts)
        return collected

    Collector.get_data_struct = get_data_struct
    return "coverage and diversity metrics: RecBole's collector leaves counts where they are"


class View(types.ModuleType):
    """A module seen with some names replaced, for one importing module only."""

    def __init__(self, module: types.ModuleType, **replaced) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name: str):
        return getattr(self.__dict__["_module"], name)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2])


CURES: tuple[Callable[[], str | None], ...] = (
    numpy_aliases,
    ray_stub,
    checkpoint_loading,
    sparse_update,
    anomaly_detection,
    exhaustive_search,
    counts_of_metrics,
)


def apply() -> dict[str, str]:
    """Apply every cure that is needed; returns {name of the cure: what it mended} of this process so far."""
    for cure in CURES:
        sentence = cure()
        if sentence:
            MENDED[cure.__name__] = sentence
    return MENDED
