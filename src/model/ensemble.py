"""Several trained networks, each with its own size and normalisation, as one network: what a student learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.spec import Normalisation


class Ensemble(nn.Module):
    """Log-probabilities, or values, of a weighted mean of networks; sees inputs normalised for another network.

    members: networks; logs: what makes log-probabilities of the outputs (B, count) of each (None: of logits, by
    log-softmax, which leaves those of an `Ensemble` as they are); sizes: the pixels that each is fed with (0: as they
    come); normalisations: what each expects; weights: not negative. kind `mean`: Σ w·p; `geometric`: ∏ p^w, made to
    sum to 1; `values`: Σ w·v of numbers, which `logs` makes of the outputs.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        sizes: Sequence[int],
        normalisations: Sequence[Normalisation],
        weights: Sequence[float],
        inputs: Normalisation,
        kind: Literal["mean", "geometric", "values"] = "mean",
        logs: Sequence[Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.members, self.sizes, self.kind = nn.ModuleList(members), list(sizes), kind
        self.logs: list[Callable[[Tensor], Tensor]] = list(logs or [partial(F.log_softmax, dim=1)] * len(members))
        self.weights = [weight / sum(weights) for weight in weights]
        # x·scale + shift turns an input normalised for `inputs` into one for the member
        scales = [[a / b for a, b in zip(inputs.std, own.std, strict=True)] for own in normalisations]
        shifts = [
            [(m - n) / b for m, n, b in zip(inputs.mean, own.mean, own.std, strict=True)] for own in normalisations
        ]
        self.register_buffer("scales", torch.tensor(scales)[:, :, None, None], persistent=False)
        self.register_buffer("shifts", torch.tensor(shifts)[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) normalised for `inputs` -> (B, C) float32 log-probabilities, or values."""
        logs = []
        for i, member in enumerate(self.members):
            own = x * self.scales[i] + self.shifts[i]  # type: ignore[index]
            if self.sizes[i] and own.shape[-1] != self.sizes[i]:
                size = (self.sizes[i], self.sizes[i])
                own = F.interpolate(own, size, mode="bilinear", antialias=own.shape[-1] > self.sizes[i])
            logs.append(self.logs[i](member(own).float()))
        weights = torch.tensor(self.weights, device=x.device)[:, None, None]
        if self.kind == "values":
            return (torch.stack(logs) * weights).sum(0)
        if self.kind == "geometric":
            return F.log_softmax((torch.stack(logs) * weights).sum(0), dim=1)
        return torch.logsumexp(torch.stack(logs) + weights.log(), dim=0)
