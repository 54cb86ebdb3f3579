"""``torch_compile``: the fusion as one compiled graph, and what happens where torch cannot compile."""

from __future__ import annotations

from logging import getLogger

import torch
from torch import nn

from recbole_prism.errors import PRISMError, suggest


def compile_fusion(fusion: nn.Module, wish: bool | str | None) -> None:
    """Compile a fusion in place, for any number of histories; parameters and state dict stay as they are.

    wish: ``True``, or the name of a backend of torch. What torch cannot compile (no C++ compiler, an unknown Python)
    runs as it is, after a warning. Raises PRISMError for an unknown backend.
    """
    if not wish:
        return
    backend = "inductor" if wish is True else wish
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise PRISMError(f"torch_compile: no backend {backend!r}{suggest(backend, known)}; torch has {known}")
    torch._dynamo.config.suppress_errors = True  # torch's own way back to running as it is
    try:
        fusion.compile(dynamic=True, backend=backend)
    except RuntimeError as error:
        getLogger().warning(f"torch_compile: {error}; the fusion runs as it is")
