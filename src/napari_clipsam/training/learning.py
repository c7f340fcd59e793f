"""What all parts of a run have in common: one optimiser step, in micro-batches that fit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Learner", "Means", "Source", "bytes_kept"]

_WARM_STEPS, _FLOOR, _CLIP_NORM = 8, 0.05, 1.0


V = TypeVar("V")


class Source(Protocol[V]):
    """What is learnt from: ``batch`` views a step, drawn with ``generator``, for a ``device``."""

    batch: int
    device: torch.device
    generator: torch.Generator

    def draw(self) -> list[V]:
        """Views of a step."""


class Learner(ABC, Generic[V]):
    """Fits some parameters of a network.

    Parameters
    ----------
    source : Source
    groups : sequence of (list of Parameter, float, float)
        Parameters, their highest rate and their weight decay.
    trained : Module
        The network they belong to.
    frozen : sequence of Module
        Others that take part.

    Attributes
    ----------
    parameters : list of Parameter
    optimizer : torch.optim.Optimizer
    micro : int
        Views whose gradients are computed at once; those of a step are added up.
    recompute : bool
        Whether blocks are run again for their gradients, where not even one view fits.
    updates : int
        Steps taken.
    """

    def __init__(
        self,
        source: Source[V],
        groups: Sequence[tuple[list[nn.Parameter], float, float]],
        trained: nn.Module,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        self._source, self._trained, self._frozen = source, trained, frozen
        self.micro = source.batch
        self.recompute = False
        self.updates = 0
        used = [group for group in groups if group[0]]
        self.parameters = [p.requires_grad_() for members, _, _ in used for p in members]
        self._rates = [rate for _, rate, _ in used]
        self._fused = source.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            [{"params": members, "lr": 0.0, "weight_decay": decay} for members, _, decay in used],
            betas=(0.9, 0.98),
            fused=self._fused,
        )

    @abstractmethod
    def terms(self, views: Sequence[V], progress: float) -> dict[str, Tensor]:
        """Loss terms of some views; ``loss`` is what is minimised."""

    def step(self, progress: float) -> dict[str, Tensor]:
        """Take one step; the device is not waited for.

        Parameters
        ----------
        progress : float
            Share of this part that is over, 0..1; the rate falls along a cosine.

        Returns
        -------
        dict of str to Tensor
            The loss terms. ``loss`` is not finite where it or its gradient was not; nothing was
            changed then.
        """
        drawn = self._source.generator.get_state()
        try:
            return self._step(progress)
        except BaseException:
            # What was stopped is done again from the same draws.
            self._source.generator.set_state(drawn)
            raise

    def _step(self, progress: float) -> dict[str, Tensor]:
        self._set_rates(progress)
        self.optimizer.zero_grad(set_to_none=True)
        views = self._source.draw()
        means: dict[str, Tensor] = {}
        for first in range(0, len(views), self.micro):
            chunk = views[first : first + self.micro]
            share = len(chunk) / len(views)
            terms = self.terms(chunk, progress)
            (share * terms["loss"]).backward()
            for name, value in terms.items():
                part = share * value.detach()
                means[name] = means[name] + part if name in means else part
        norm = nn.utils.clip_grad_norm_(self.parameters, _CLIP_NORM)
        finite = means["loss"].isfinite() & norm.isfinite()
        means["loss"] = means["loss"].masked_fill(~finite, torch.nan)
        self._update(finite)
        self.updates += 1
        return means

    def _update(self, finite: Tensor) -> None:
        """Let the optimiser change the weights where that makes sense."""
        if self._fused:
            # The kernel reads it on the device, as it does for torch's gradient scaler.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif finite:
            self.optimizer.step()

    def fit_memory(self, free: int) -> None:
        """Choose how many views are computed at once, and how, by what one of them keeps.

        Parameters
        ----------
        free : int
            Bytes that may be filled.
        """
        self.recompute = False
        drawn = self._source.generator.get_state()
        networks = (self._trained, *self._frozen)
        try:
            views = self._source.draw()[:1]
            kept = bytes_kept(lambda: self.terms(views, 1.0), networks)
        finally:
            # It may be stopped; what comes next draws as if nothing had been tried.
            self._source.generator.set_state(drawn)
        self.micro = max(1, min(self._source.batch, free // max(1, kept)))
        self.recompute = kept > free

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        return {
            "adapter": self._trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "generator": self._source.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._trained.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        self._source.generator.set_state(state["generator"].cpu())

    def _set_rates(self, progress: float) -> None:
        """A few steps up, then down along a cosine."""
        fall = _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        factor = fall * min(1.0, (self.updates + 1) / _WARM_STEPS)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor


def bytes_kept(work: Callable[[], object], networks: Sequence[nn.Module]) -> int:
    """Bytes that autograd keeps of some work for its gradients, weights not counted.

    The same for every device and precision that the work would run in alike.
    """
    weights = {p.untyped_storage().data_ptr() for net in networks for p in net.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            # An address may be used again once its tensor is gone.
            alive.append(storage)
        # An output that keeps itself would never be let go.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(kept.values())


class Means:
    """Means of loss terms since they were last taken; until then they stay on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take those of a step."""
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts.update(terms.keys())

    def take(self) -> dict[str, float]:
        """Give the means, and begin anew."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()
        means = {
            name: total / self._counts[name] for name, total in zip(self._sums, sums, strict=True)
        }
        self._sums.clear()
        self._counts.clear()
        return means
