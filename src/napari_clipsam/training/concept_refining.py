"""The last part of a run: a refiner learns how what was taught looks pixel by pixel.

Adapter and decoder mark tokens of eight pixels; a small network redraws what they mark from the
pixels around it, see `models.refiner.ConceptRefiner`. Here it learns on the slices that were
labelled, from what the adapter, which stays as it is, says of them.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

import torch

from napari_clipsam.inference.devices import free_memory, memory_guard
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.inference.transfer import to_device
from napari_clipsam.models.refiner import CONCEPT_WIDTHS, ConceptRefiner, concept_input
from napari_clipsam.training.concept_windows import ConceptWindows, labelled_maps
from napari_clipsam.training.learning import Learner
from napari_clipsam.training.losses import mask_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.models.sam import Sam
    from napari_clipsam.training.events import TrainEvent
    from napari_clipsam.training.pacing import Pace
    from napari_clipsam.training.samples import Example
    from napari_clipsam.training.settings import FitSettings

__all__ = ["REFINE_SHARE", "WINDOWS", "RefinerLearner", "first_refiner", "refine"]

#: Of the whole budget; asking the adapter may take half of it.
REFINE_SHARE = 0.25
#: Windows of a step.
WINDOWS = 16
# Of the adapters' rate.
_RATE_SHARE, _DECAY = 1.5, 1e-3
_TELL_SECONDS = 0.5


class RefinerLearner(Learner["Tensor"]):
    """Fits a concept refiner.

    Parameters
    ----------
    windows : ConceptWindows
    refiner : ConceptRefiner
        Trained in place.
    settings : FitSettings
    """

    def __init__(
        self, windows: ConceptWindows, refiner: ConceptRefiner, settings: FitSettings
    ) -> None:
        rate = _RATE_SHARE * settings.rate
        super().__init__(windows, [(list(refiner.parameters()), rate, _DECAY)], refiner)
        self.refiner, self.settings, self.device = refiner.train(), settings, windows.device

    def terms(self, views: Sequence[Tensor], progress: float) -> dict[str, Tensor]:
        """The loss of all windows as one mask, since some show nothing of the structure."""
        maps = to_device(torch.stack(list(views)), self.device)
        logits = self.refiner(concept_input(maps[:, :3], maps[:, 3], maps[:, 4]))
        known = (maps[:, 6] > 0.99).float()
        drawn, truth, known = (part.flatten(0, 1)[None] for part in (logits, maps[:, 5], known))
        return {"loss": mask_loss(drawn, truth, self.settings.loss, known).sum()}


def first_refiner(sam: Sam, start: Adapter | None, seed: int) -> ConceptRefiner:
    """A copy of what redrew concepts before, in the adapter gone on from or the base; else anew."""
    own = None if start is None else start.concept_refiner
    known = own or sam.concept_refiner
    if known is not None:
        return copy.deepcopy(known).requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConceptRefiner(CONCEPT_WIDTHS).to(next(sam.parameters()).device)


def refine(
    model: LoadedModel,
    adapter: Adapter,
    refiner: ConceptRefiner,
    examples: Sequence[Example],
    settings: FitSettings,
    pace: Pace,
    check: Callable[[], None],
    tell: Callable[[], TrainEvent],
) -> Generator[TrainEvent, None, ConceptRefiner | None]:
    """Fit a refiner to what an adapter says of labelled planes, for its share of the budget.

    Parameters
    ----------
    model : LoadedModel
    adapter : Adapter
        Stays as it is.
    refiner : ConceptRefiner
        Trained in place.
    examples : sequence of Example
        To learn from.
    settings : FitSettings
    pace : Pace
        Its steps are counted on.
    check : callable
        Called between steps and the blocks of the networks; what it raises ends it.
    tell : callable
        Makes an event, now and then.

    Yields
    ------
    TrainEvent

    Returns
    -------
    ConceptRefiner or None
        None where nothing of the structure can be seen, or the loss was not finite.

    Raises
    ------
    Stopped, OutOfMemory
    """
    device = next(model.sam.parameters()).device
    begun = pace.progress
    end = min(1.0, begun + REFINE_SHARE)
    maps: list[NDArray[np.uint8]] = []
    segmenter = Segmenter(model, copy.copy(adapter), str(device))
    segmenter.check = check
    for example in examples:
        yield tell()
        maps += labelled_maps(segmenter, example)
        if maps and pace.progress > (begun + end) / 2:
            break
    if not maps:
        return None
    windows = ConceptWindows(maps, WINDOWS, settings.seed, device)
    learner = RefinerLearner(windows, refiner, settings)
    with memory_guard(device, torch.float32):
        learner.fit_memory(free_memory(device) // 2)
    begin, told = pace.progress, time.perf_counter()
    while (progress := pace.progress) < end:
        check()
        with memory_guard(device, torch.float32):
            terms = learner.step((progress - begin) / (end - begin))
        pace.step += 1
        if time.perf_counter() - told > _TELL_SECONDS:
            told = time.perf_counter()
            yield tell()
            # Only here the device is waited for.
            if not terms["loss"].isfinite():
                return None
    return refiner.eval().requires_grad_(False)
