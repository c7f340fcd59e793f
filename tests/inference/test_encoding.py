"""What reduced precision may change, and what not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_clipsam.geometry import whole_plane
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.segmenter import Segmenter

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.planes import Plane


@torch.inference_mode()
def test_clips_features_keep_full_precision(
    model: LoadedModel, make_plane: Callable[..., Plane]
) -> None:
    view = View(make_plane((40, 60)), whole_plane((40, 60), 64))
    full, half = (Segmenter(model, None, "cpu", name)._encoder for name in ("fp32", "bf16"))

    assert torch.equal(half.dense(view), full.dense(view).half().float())
    assert not torch.equal(half.trunk(view), full.trunk(view).half().float())
