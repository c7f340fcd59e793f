"""Random networks, which cost what trained ones cost, and what they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam as StockSam

from napari_clipsam import Plane, Prompts, Segmenter, open_image
from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import save_adapter
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.models.clip import Clip, ClipConfig, build_clip
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.models.sam import Sam, SamConfig, default_split
from napari_clipsam.models.weights import save_clip, save_sam

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_clipsam.inference.devices import Precision
    from napari_clipsam.models.compiling import Compilation

__all__ = [
    "CLIP",
    "WORD",
    "Networks",
    "another_adapter",
    "clicks",
    "grid_boxes",
    "open_clip_vit",
    "pixels",
    "plane",
]

WORD = "nuclei"
CLIP = "ViT-B-16"


@dataclass(frozen=True, eq=False)
class Networks:
    """A SAM, a CLIP and an adapter that belong together, on one device."""

    sam: Sam
    clip: Clip
    adapter: Adapter

    @classmethod
    def random(cls, config: SamConfig, clip: ClipConfig, device: torch.device) -> Networks:
        """Networks of these shapes; the adapter conditions the last third of the blocks."""
        torch.manual_seed(0)
        sam = Sam(config).to(device).requires_grad_(False)
        for name, value in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                value.normal_(std=0.1)
        text = build_clip(clip).to(device).requires_grad_(False)
        return cls(sam, text, another_adapter(sam, text, 0))

    @property
    def model(self) -> LoadedModel:
        """SAM and CLIP as a Segmenter takes them."""
        return LoadedModel("random", self.sam, self.clip, None)

    def segmenter(
        self,
        device: torch.device,
        adapter: Adapter | None,
        precision: Precision,
        compilation: Compilation = "none",
    ) -> Segmenter:
        """A Segmenter over these networks."""
        return Segmenter(self.model, adapter, str(device), precision, compilation=compilation)

    def predictor(self) -> SamPredictor:
        """`segment_anything`'s own, over the same weights."""
        sam = self.sam
        device = next(sam.parameters()).device
        return SamPredictor(
            StockSam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder).to(device).eval()
        )

    def write(self, folder: Path) -> None:
        """Files that the command line and other programs can load."""
        save_sam(self.sam, folder / "sam.safetensors", half=False)
        save_clip(self.clip, folder / "clip.safetensors", half=False)
        save_adapter(self.adapter, folder / "adapter.safetensors", half=False)
        torch.save(self.sam.state_dict(), folder / "sam.pth")


def another_adapter(sam: Sam, clip: Clip, seed: int) -> Adapter:
    """An adapter for these networks that says yes to every plane."""
    settings = AdapterConfig(n_conditioned=sam.config.depth - default_split(sam.config.depth))
    adapter = build_adapter(settings, sam, clip, seed=seed).requires_grad_(False)
    adapter = adapter.to(next(sam.parameters()).device)
    # With a threshold the presence is computed, too.
    return adapter.with_info(words=(WORD,), threshold=0.0)


def open_clip_vit(architecture: str = CLIP) -> ClipConfig:
    """Configuration of one of open_clip's networks."""
    import open_clip

    return ClipConfig(open_clip.get_model_config(architecture))


def pixels(side: int, seed: int) -> NDArray[np.uint8]:
    """A grey image of bright, blurred disks on a dark, noisy ground."""
    rng = np.random.default_rng(seed)
    grey = rng.normal(60, 12, (side, side))
    radius = max(2, side // 24)
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = 120 * np.clip(1.5 - np.hypot(y, x) / radius, 0, 1)
    for top, left in rng.integers(0, side - 2 * radius, (30, 2)):
        grey[top : top + 2 * radius + 1, left : left + 2 * radius + 1] += disk
    return grey.clip(0, 255).astype(np.uint8)


def plane(side: int, seed: int) -> Plane:
    """The same as a plane."""
    return open_image(pixels(side, seed)).plane()


def clicks(side: int, count: int) -> list[Prompts]:
    """Single clicks anywhere."""
    points = np.random.default_rng(3).uniform(0, side - 1, (count, 2))
    return [Prompts(points=point[None]) for point in points]


def grid_boxes(side: int, count: int) -> NDArray[np.float64]:
    """Boxes (count, 4) of y0, x0, y1, x1, side by side."""
    across = int(np.ceil(np.sqrt(count)))
    size = side / across
    corners = [(i // across * size, i % across * size) for i in range(count)]
    return np.array([(y, x, y + 0.8 * size, x + 0.8 * size) for y, x in corners])
