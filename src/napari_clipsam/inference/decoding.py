"""Prompts in data pixels to decoder outputs, for the base model or an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from napari_clipsam.inference.devices import require_finite
from napari_clipsam.inference.transfer import to_device
from napari_clipsam.models.decoder import Decoded, decode, embed_masks, embed_points
from napari_clipsam.models.refiner import concept_input, refiner_input

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.adapters.inject import Adapter, Target
    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.encoding import PlaneEncoder
    from napari_clipsam.models.refiner import ConceptRefiner
    from napari_clipsam.models.stock import MaskDecoder, PromptEncoder

__all__ = ["ObjectPrompt", "PromptDecoder"]

_PADDING = -1
_CORNERS = (2, 3)
# Prompts of one batch. More fill a GPU better, but on a CPU they fall out of its caches.
_CHUNK, _CPU_CHUNK = 64, 2
# Model pixels; a box may reach beyond the plane, but float32 has an end.
_FARTHEST = 1e6


class ObjectPrompt(NamedTuple):
    """Prompts of one object in data pixels.

    ``points`` (N, 2) (y, x) with ``labels`` (N,), ``box`` (4,) or None, ``mask`` low-resolution
    logits (M, M) or None.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    box: NDArray[np.float64] | None = None
    mask: NDArray[np.float32] | None = None

    @property
    def ambiguous(self) -> bool:
        """One click and nothing else: it may mean a part, a whole or a group."""
        return len(self.points) == 1 and self.box is None and self.mask is None

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """How many points there are, and whether a box and a mask; alike can be decoded at once."""
        return len(self.points), self.box is not None, self.mask is not None


class PromptDecoder:
    """Decodes prompts with the adapter's decoder if there is one, else the base's."""

    def __init__(self, encoder: PlaneEncoder) -> None:
        self.encoder = encoder
        self._grid: tuple[PromptEncoder, Tensor] | None = None

    def parts(self, target: Target) -> tuple[PromptEncoder, MaskDecoder]:
        """Prompt encoder and mask decoder that answer."""
        source = self._adapter_for(target) or self.encoder.sam
        return source.prompt_encoder, source.mask_decoder

    @property
    def mask_size(self) -> int:
        """Side of mask prompts and low-resolution logits; an adapter's are its base's."""
        return int(self.encoder.sam.prompt_encoder.mask_input_size[0])

    @property
    def refines(self) -> bool:
        """Whether there is a refiner of objects, whoever decodes them."""
        return self.encoder.sam.refiner is not None

    def refine(self, *seen: Tensor) -> tuple[Tensor, Tensor]:
        """Redraw masks of close-ups, where it `refines`.

        Parameters
        ----------
        *seen : Tensor
            What `refiner_input` takes.

        Returns
        -------
        logits : Tensor, shape (N, S, S)
            On the CPU.
        worth : Tensor, shape (N,)

        Raises
        ------
        ClipSamError, Stopped
            As `run`.
        """
        refiner = self.encoder.sam.refiner
        assert refiner is not None
        self.encoder.pause()
        with self.encoder.timed("decode"):
            logits, worth = refiner(refiner_input(*self._moved(seen)))
            return require_finite(logits).cpu(), require_finite(worth).cpu()

    @property
    def refines_concepts(self) -> bool:
        """Whether there is a refiner of concepts, and it knows those of the adapter."""
        return self._concept_refiner is not None

    @property
    def _concept_refiner(self) -> ConceptRefiner | None:
        adapter = self.encoder.adapter
        if adapter is None or not adapter.config.redrawn_concepts:
            return None
        return adapter.concept_refiner or self.encoder.sam.concept_refiner

    def refine_concept(self, *seen: Tensor) -> Tensor:
        """Redraw windows on a concept, where it `refines_concepts`.

        Parameters
        ----------
        *seen : Tensor
            What `concept_input` takes.

        Returns
        -------
        Tensor, shape (N, S, S)
            Logits, on the CPU.

        Raises
        ------
        ClipSamError, Stopped
            As `run`.
        """
        refiner = self._concept_refiner
        assert refiner is not None
        self.encoder.pause()
        with self.encoder.timed("decode"):
            return require_finite(refiner(concept_input(*self._moved(seen)))).cpu()

    def _moved(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        return [to_device(tensor, self.encoder.device) for tensor in tensors]

    def _adapter_for(self, target: Target) -> Adapter | None:
        """The adapter whose decoder answers, None where it is the base's."""
        adapter = self.encoder.adapter
        if adapter is None or (target == "object" and not adapter.config.own_objects):
            return None
        return adapter

    def object(self, embedding: Tensor, prompt: ObjectPrompt, frame: Frame) -> Decoded:
        """Decode one object; three masks after a single click, else one."""
        return next(self.objects(embedding, [prompt], frame))

    def objects(
        self, embedding: Tensor, prompts: Sequence[ObjectPrompt], frame: Frame
    ) -> Iterator[Decoded]:
        """Decode objects of one `ObjectPrompt.kind` in batches; gives each on its own."""
        for first in range(0, len(prompts), self._batch):
            some = prompts[first : first + self._batch]
            placed = [_placed(prompt, frame) for prompt in some]
            coords = self._tensor([xy for xy, _ in placed], torch.float32)
            kinds = self._tensor([labels for _, labels in placed], torch.int64)
            masks = [prompt.mask for prompt in some if prompt.mask is not None]
            mask = self._tensor(masks, torch.float32)[:, None] if masks else None
            found = self.run(embedding, coords, kinds, mask, "object", some[0].ambiguous)
            for i in range(len(some)):
                yield Decoded(*(part[i : i + 1] for part in found))

    @property
    def _batch(self) -> int:
        return _CPU_CHUNK if self.encoder.device.type == "cpu" else _CHUNK

    def _tensor(self, arrays: Sequence[NDArray], dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.stack(arrays), dtype=dtype, device=self.encoder.device)

    def points(self, embedding: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Decode N single clicks in batches.

        Parameters
        ----------
        xy : Tensor, shape (N, 2)
            (x, y) in model pixels.

        Returns
        -------
        logits : Tensor, shape (N, K, M, M)
            The three masks of each click, best first, where it `refines`; else the best alone.
        quality : Tensor, shape (N,)
            Of the best.
        """
        logits, quality = [], []
        count = 3 if self.refines else 1
        for chunk in xy.split(self._batch):
            coords = torch.stack([chunk, torch.zeros_like(chunk)], dim=1)
            kinds = torch.tensor([1, _PADDING], device=xy.device).expand(len(chunk), 2)
            decoded = self.run(embedding, coords, kinds, None, "object", multimask=True)
            order = decoded.iou.argsort(dim=1, descending=True)[:, :count]
            rows = torch.arange(len(chunk), device=xy.device)
            logits.append(decoded.logits[rows[:, None], order].float())
            quality.append(decoded.iou[rows, order[:, 0]].float())
        return torch.cat(logits), torch.cat(quality)

    def run(
        self,
        embedding: Tensor,
        coords: Tensor,
        kinds: Tensor,
        mask: Tensor | None,
        target: Target,
        multimask: bool,
    ) -> Decoded:
        """Decode N prompts against one image embedding.

        Parameters
        ----------
        coords, kinds : Tensor, shapes (N, T, 2) and (N, T)
            As `embed_points` takes them.
        mask : Tensor, shape (N, 1, M, M), optional

        Raises
        ------
        ClipSamError
            The answer is not finite.
        Stopped
            See `PlaneEncoder.pause`.

        Notes
        -----
        An adapter's target token joins the prompts even while it is zero, as it is before training:
        attention then sees one more token. So an untrained adapter gives the base's image embedding
        exactly, and masks close to the base's.
        """
        self.encoder.pause()
        adapter = self._adapter_for(target)
        prompt_encoder, mask_decoder = self.parts(target)
        n = len(coords)
        with self.encoder.timed("decode"):
            self.encoder.calls["decode"] += 1
            sparse = embed_points(prompt_encoder, coords, kinds)
            if adapter is not None:
                sparse = torch.cat([sparse, adapter.target_tokens(target, n)], dim=1)
            dense = embed_masks(prompt_encoder, mask, 1 if mask is None else n)
            places = self._places(prompt_encoder)
            decoded = decode(mask_decoder, embedding, places, sparse, dense, multimask)
            require_finite(decoded.logits)
            require_finite(decoded.iou)
            return decoded

    def _places(self, prompt_encoder: PromptEncoder) -> Tensor:
        """Positional encoding (1, C, G, G) of the image, made once for a prompt encoder."""
        device, known = self.encoder.device, self._grid
        if known is None or known[0] is not prompt_encoder or known[1].device.type != device.type:
            self._grid = known = prompt_encoder, prompt_encoder.get_dense_pe()
        return known[1]


def _placed(prompt: ObjectPrompt, frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points and corners (T, 2) in model pixels and their kinds (T,), padded as SAM pads them."""
    xy, labels = frame.to_model(prompt.points), prompt.labels
    if prompt.box is not None:
        corners = frame.box_to_model(prompt.box[None]).reshape(2, 2)
        xy, labels = np.concatenate([xy, corners]), np.concatenate([labels, _CORNERS])
    elif len(prompt.points):
        # A mask alone has no sparse prompt.
        xy, labels = np.pad(xy, ((0, 1), (0, 0))), np.pad(labels, (0, 1), constant_values=_PADDING)
    return xy.clip(-_FARTHEST, _FARTHEST), labels
