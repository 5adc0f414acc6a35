"""Arrays to the subject's device and results back, without waiting for it.

On a GPU copies go through pinned memory. Results come back on a stream of their own, so that the copy of
one batch overlaps the arithmetic of the next; only `Parcel.arrays` waits, and only for its own copy.
On a CPU nothing is copied and nothing has to be waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Courier:
    """Carries arrays between this process and one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.runs_ahead = device.type == "cuda"
        """Whether work is queued on the device while this process goes on."""
        self._back: Any = torch.cuda.Stream(device) if self.runs_ahead else None  # type: ignore[no-untyped-call]

    def send(self, array: NDArray[Any]) -> Tensor:
        """An array on the device; there when what is queued next gets to it."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if not self.runs_ahead:
            return tensor.to(self.device)
        # Pinned memory is kept by torch until the copy is done, even if the tensor is gone by then.
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def fetch(self, tensors: Mapping[str, Tensor]) -> Parcel:
        """Tensors of the device on their way here; call it once all work on them is queued."""
        if self._back is None:
            return Parcel(dict(tensors), None)
        ready = torch.cuda.current_stream(self.device).record_event()
        with torch.cuda.stream(self._back):
            self._back.wait_event(ready)
            here: dict[str, Tensor] = {}
            for name, tensor in tensors.items():
                here[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                here[name].copy_(tensor, non_blocking=True)
                # The memory is not given to later work of the other stream before it is copied.
                tensor.record_stream(self._back)
            # While it waits, this process leaves the core to the threads that read and write.
            arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            arrived.record(self._back)
        return Parcel(here, arrived)


class Parcel:
    """Results on their way from the device."""

    def __init__(self, tensors: Mapping[str, Tensor], arrived: Any) -> None:
        self._tensors, self._arrived = tensors, arrived

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The results, waited for if they are not here yet."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {name: tensor.cpu().numpy() for name, tensor in self._tensors.items()}
