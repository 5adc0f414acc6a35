"""Which device the subject and its dictionary run on."""

from __future__ import annotations

import torch

from autointerp.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The device of `subject.device`; `auto` is a GPU if there is one.

    Raises `UserError` for a name that is no device or a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"subject.device: {name!r} cannot be used: {reason}; accepted: auto, cpu, cuda, cuda:N, mps"
        ) from None
    return device
