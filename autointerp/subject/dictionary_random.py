"""Random directions as latents: the control a dictionary, and any score of its labels, is read against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autointerp.config import DictionaryConfig, SubjectConfig
from autointerp.errors import UserError
from autointerp.subject.device import resolve_device
from autointerp.subject.dictionary import check_width, encode_in_chunks
from autointerp.subject.dictionary_neurons import mlp_width
from autointerp.subject.sparse import SparseLatents


@dataclass(frozen=True, kw_only=True)
class Standardisation:
    """Mean and standard deviation of each dimension of the activations, [d_in] float64."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    """1 where the dimension is constant."""
    n_positions: int
    """Positions they were measured on."""

    @classmethod
    def measure(cls, batches: Iterable[Tensor]) -> Standardisation:
        """Over the rows of batches of activations [n, d_in]. Raises `UserError` if there are none."""
        n, mean, squares = 0, np.zeros(()), np.zeros(())
        for batch in batches:
            rows = batch.double().cpu().numpy()
            if len(rows) == 0:
                continue
            # Sums of squares about the mean, moved as the mean moves (Chan, Golub and LeVeque 1979).
            shift = rows.mean(axis=0) - mean
            squares = squares + ((rows - rows.mean(axis=0)) ** 2).sum(axis=0)
            squares = squares + shift**2 * (n * len(rows) / (n + len(rows)))
            n += len(rows)
            mean = mean + shift * (len(rows) / n)
        if n == 0:
            raise UserError(
                "corpus.dataset: its first contexts hold no unmasked token to measure activations on"
            )
        deviation = np.sqrt(squares / n)
        return cls(mean=mean, deviation=np.where(deviation > 0, deviation, 1.0), n_positions=n)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, exactly."""
        return {
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
            "n_positions": self.n_positions,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Standardisation:
        """What `to_dict` made."""
        return cls(
            mean=np.array(values["mean"], dtype=np.float64),
            deviation=np.array(values["deviation"], dtype=np.float64),
            n_positions=int(values["n_positions"]),
        )


class RandomDictionary:
    """Unit random directions, each both encoder and decoder; the `k` largest positive of a position count.

    Activations are standardised per dimension first: a few dimensions of a residual stream are so much
    larger than the rest that otherwise all directions would tell of these alone. So it has the size and
    the number of active latents of a trained dictionary, and no more knowledge than the subject's own
    activations hold: the random baseline of Paulo et al. 2024, "Automatically Interpreting Millions of
    Features in Large Language Models". `standardise` has to be called before `encode`.
    """

    def __init__(
        self, hook_point: str, d_in: int, n_latents: int, k: int, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.hook_point = self.hook_point_out = hook_point
        self.d_in, self.n_latents = d_in, n_latents
        self._k, self._seed = k, seed
        # Drawn on the CPU, whatever the device: the same numbers everywhere.
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(n_latents, d_in, generator=generator)
        self._directions = torch.nn.functional.normalize(directions, dim=-1).to(device)
        self._mean: Tensor | None = None
        self._deviation = torch.ones(d_in)
        self.metadata: dict[str, Any] = {
            "architecture": "random",
            "k": k,
            "seed": seed,
            "signed": False,
        }

    @classmethod
    def open(cls, config: DictionaryConfig, subject: SubjectConfig) -> RandomDictionary:
        """From `hook_point`, `n_latents`, `top_k` and `seed`; the width comes from the model's configuration."""
        hook_point = str(config.hook_point)
        return cls(
            hook_point,
            _width(hook_point, subject),
            int(config.n_latents or 0),
            int(config.top_k or 0),
            seed=config.seed,
            device=str(resolve_device(subject.device)),
        )

    @property
    def identity(self) -> str:
        """What the directions are made from; the standardisation follows from the subject and the text."""
        return f"random:{self.hook_point}:{self.d_in}:{self.n_latents}:{self._k}:{self._seed}"

    def standardise(self, by: Standardisation) -> None:
        """Read activations in units of their spread over some text. Raises `UserError` if the widths differ."""
        check_width(torch.empty(0, len(by.mean)), self.d_in, self.hook_point)
        device = self._directions.device
        self._mean = torch.from_numpy(by.mean).float().to(device)
        self._deviation = torch.from_numpy(by.deviation).float().to(device)

    def encode(self, activations: Tensor, *, room: int | None = None) -> SparseLatents:
        """The `k` largest positive latents of activations [n, d_in]."""
        check_width(activations, self.d_in, self.hook_point)
        with torch.no_grad():
            return encode_in_chunks(activations, self.n_latents, self._encode, room)

    def decoder_directions(self, latents: Tensor) -> Tensor | None:
        """The directions, float32 [n, d_in]."""
        return self._directions[latents.to(self._directions.device)]

    def encoder_directions(self, latents: Tensor) -> Tensor | None:
        """The directions in units of the activations, float32 [n, d_in]: over their deviations, once standardised."""
        rows = self._directions[latents.to(self._directions.device)]
        return rows / self._deviation.to(rows.device)

    def _encode(self, x: Tensor, room: int | None) -> SparseLatents:
        if self._mean is None:
            raise RuntimeError("a random dictionary needs standardise() before encode()")
        x = (x.to(self._mean) - self._mean) / self._deviation
        values, indices = (x @ self._directions.T).relu_().topk(self._k, dim=-1, sorted=False)
        return SparseLatents.from_top_k(indices, values, room)


def _width(hook_point: str, subject: SubjectConfig) -> int:
    from autointerp.weights import load_model_config

    config = load_model_config(
        subject.model, subject.revision, trust_remote_code=subject.trust_remote_code
    ).get_text_config()
    if hook_point.endswith("mlp.hook_post"):
        return mlp_width(config)
    if hook_point.endswith("attn.hook_z"):
        raise UserError(
            f"dictionary.hook_point: seen {hook_point!r}; accepted for random directions: a hook point of the "
            "residual stream's width (as blocks.N.hook_resid_post), or blocks.N.mlp.hook_post"
        )
    return int(config.hidden_size)
