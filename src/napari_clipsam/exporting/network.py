"""A word as a network of its own: an 8-bit RGB plane in, the probability of the concept out.

What the Segmenter does for a word on a plane that it shows whole, with all that depends on the word
alone computed once: its text vector, the draws of its points, the positions of the image. Two
parts become one TorchScript file. `ConceptNetwork` sees the model's square and is traced, so that
no code of this package, segment_anything or open_clip is needed to run it. `PlaneNetwork` fits
planes of any size into the square and is scripted, since a trace would keep the first plane's size.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_clipsam.adapters.inject import tuning_of
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.decoder import decode, embed_masks, embed_points
from napari_clipsam.models.sam import PIXEL_MEAN, PIXEL_STD
from napari_clipsam.semantics import (
    cosine_statistics,
    make_signals,
    plane_cells,
    point_draws,
    prompts_within,
    text_vector,
    valid_patches,
)

if TYPE_CHECKING:
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel

__all__ = ["ConceptNetwork", "PlaneNetwork", "file_of", "rounded", "script", "taps"]

#: What a plane without presence gets: there is always something to mark.
_SURELY_THERE = 1e4


class ConceptNetwork(nn.Module):
    """A word in the model's square input.

    Parameters
    ----------
    model : LoadedModel
        Copied as far as it is needed: the decoder is the adapter's, and of CLIP only its eyes.
    adapter : Adapter
        Made for `model`.
    word : str
        One the model knows.
    seed : int
        Of the points drawn from the similarity map.
    """

    text: Tensor
    draws: Tensor
    kinds: Tensor
    places: Tensor

    def __init__(self, model: LoadedModel, adapter: Adapter, word: str, seed: int = 0) -> None:
        super().__init__()
        self.adapter = deepcopy(adapter).cpu()
        self.sam = deepcopy(model.sam).cpu()
        del self.sam.mask_decoder, self.sam.prompt_encoder
        self.clip = Clip(_Eyes(deepcopy(model.clip.model.visual).cpu()), model.clip.config)
        self.has_presence = adapter.config.object_mode and adapter.info.threshold is not None
        count = adapter.config.n_points
        with torch.no_grad():
            concept, redundant = model.clip.concept(word), model.clip.redundant()
            text = text_vector(concept, redundant, adapter.delta(word)).cpu()
        self.register_buffer("text", text[None])
        self.register_buffer("draws", point_draws(torch.Generator().manual_seed(seed), 1, count))
        # SAM pads the points of a prompt that has no box.
        self.register_buffer("kinds", torch.tensor([[1] * count + [-1]]))
        self.register_buffer("places", self.adapter.prompt_encoder.get_dense_pe())
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, valid: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Answer for one plane.

        Parameters
        ----------
        pixels : Tensor, shape (1, 3, S, S)
            Normalised, zero in the padding.
        valid : Tensor of bool, shape (1, N)
            CLIP patches that show the plane.
        inside : Tensor of bool, shape (1, 1, M, M)
            Cells of the mask prompt that show the plane.

        Returns
        -------
        logits : Tensor, shape (1, 1, M, M)
        presence : Tensor, shape (1,)
            Log-odds that the concept is in the plane.
        """
        adapter, config = self.adapter, self.adapter.config
        encoder = adapter.prompt_encoder
        dense = self.clip.dense(pixels, tuning_of(adapter))
        signals = make_signals(dense, self.text, config.normalisation, valid)
        trunk = self.sam.trunk(pixels, adapter.split)
        embedding = self.sam.head(trunk, adapter.split, adapter.condition(signals))
        made = prompts_within(
            signals,
            self.sam.config.input_size,
            int(encoder.mask_input_size[0]),
            config.map_threshold,
            config.n_points,
            self.draws,
            inside,
        )
        sparse = embed_points(encoder, F.pad(made.points, (0, 0, 0, 1)), self.kinds)
        sparse = torch.cat([sparse, adapter.target_tokens("concept", 1)], dim=1)
        dense_prompt = embed_masks(encoder, made.mask, 1)
        decoded = decode(adapter.mask_decoder, embedding, self.places, sparse, dense_prompt, False)
        if not self.has_presence:
            return decoded.logits, decoded.iou[:, 0] * 0 + _SURELY_THERE
        return decoded.logits, adapter.presence_logits(
            decoded.iou_token, cosine_statistics(signals)
        )


class PlaneNetwork(nn.Module):
    """A word in planes of any size; TorchScript compiles it.

    Parameters
    ----------
    network : nn.Module
        A `ConceptNetwork`, or its trace.
    source : ConceptNetwork
        Whose shapes and threshold count.
    """

    if TYPE_CHECKING:
        # TorchScript finds buffers itself and stumbles over their annotations.
        mean: Tensor
        std: Tensor

    def __init__(self, network: nn.Module, source: ConceptNetwork) -> None:
        super().__init__()
        self.network = network
        self.size: int = source.sam.config.input_size
        self.squash: bool = source.adapter.config.squash
        self.patches: int = source.clip.grid
        self.cells: int = int(source.adapter.prompt_encoder.mask_input_size[0])
        threshold = source.adapter.info.threshold
        self.threshold: float = 0.0 if threshold is None else threshold
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Map a plane (1, 3, H, W), 0..255, to the concept's probability (1, 1, H, W).

        Where the concept is not in the plane at all, every probability is 0.
        """
        height, width = image.shape[2], image.shape[3]
        # As `geometry.Frame.resized`
        scale = self.size / max(height, width)
        rows = max(1, int(height * scale + 0.5))
        cols = max(1, int(width * scale + 0.5))
        if self.squash:
            rows, cols = self.size, self.size
        shown = (self.resize(image.float(), rows, cols) - self.mean) / self.std
        pixels = F.pad(shown, [0, self.size - cols, 0, self.size - rows])
        resized = torch.tensor([[rows, cols]], device=image.device)
        logits, presence = self.network(
            pixels,
            valid_patches(resized, self.size, self.patches),
            plane_cells(resized, self.size, self.cells),
        )
        # As `inference.masks.full_logits`
        square = [self.size, self.size]
        full = F.interpolate(logits, square, mode="bilinear", align_corners=False)
        full = full[:, :, :rows, :cols]
        full = F.interpolate(full, [height, width], mode="bilinear", align_corners=False)
        there = torch.sigmoid(presence) >= self.threshold
        return torch.sigmoid(full) * there.view(1, 1, 1, 1)

    def resize(self, image: Tensor, rows: int, cols: int) -> Tensor:
        """Resize whole numbers as PIL does: along x, then along y, rounded after each.

        For shrinking planes more than twice as high as wide PIL's order depends on its version, and
        a few values are one grey level apart.
        """
        exact = image.cpu().double()
        if image.shape[3] != cols:
            exact = rounded(exact @ taps(image.shape[3], cols).t())
        if image.shape[2] != rows:
            exact = rounded(taps(image.shape[2], rows) @ exact)
        return exact.float().to(image.device)


def taps(before: int, after: int) -> Tensor:
    """Weights of `before` pixels in each of `after`, (after, before), in PIL's units of 2^-22."""
    scale = before / after
    reach = max(scale, 1.0)
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    places = torch.arange(before, dtype=torch.float64) + 0.5
    weights = (1.0 - (places[None] - centres[:, None]).abs() / reach).clamp(min=0.0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.floor(weights * 2.0**22 + 0.5)


def rounded(sums: Tensor) -> Tensor:
    """Sums over `taps` as 8-bit values, halves up."""
    return torch.floor(sums / 2.0**22 + 0.5).clamp(0.0, 255.0)


def script(source: ConceptNetwork) -> Any:
    """A `PlaneNetwork` as one TorchScript module that runs without this package.

    Parameters
    ----------
    source : ConceptNetwork

    Returns
    -------
    torch.jit.ScriptModule
        On the CPU; it follows `map_location`.
    """
    size, patches = source.sam.config.input_size, source.clip.grid
    cells = int(source.adapter.prompt_encoder.mask_input_size[0])
    example = (
        torch.zeros(1, 3, size, size),
        torch.ones(1, patches * patches, dtype=torch.bool),
        torch.ones(1, 1, cells, cells, dtype=torch.bool),
    )
    with warnings.catch_warnings(), torch.no_grad():
        # No model zoo knows the newer ways to store a network yet, and what depends on the shape
        # of the square alone may well be fixed.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(source, example, check_trace=False)
        return torch.jit.script(PlaneNetwork(traced, source))


def file_of(source: ConceptNetwork) -> bytes:
    """What `script` makes as a file, without the paths of the sources it was made from."""
    saved, kept = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(script(source), saved)
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(kept, "w") as part:
        for entry in whole.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                part.writestr(zipfile.ZipInfo(entry.filename), whole.read(entry))
    return kept.getvalue()


class _Eyes(nn.Module):
    """The part of a CLIP that sees; `Clip` asks no more of a model for dense features."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
