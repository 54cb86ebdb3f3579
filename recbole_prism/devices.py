"""Devices that a user names."""

from __future__ import annotations

from recbole_prism.errors import PRISMError


def check_device(device: str) -> None:
    """Raise PRISMError for a device that torch does not know, or that is not there."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise PRISMError(f"device {device!r}: torch knows no such device; use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise PRISMError(f"device {device!r}: there is no CUDA here; use cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise PRISMError(f"device {device!r}: not to be used here ({str(error).splitlines()[0]}); use cpu") from error
