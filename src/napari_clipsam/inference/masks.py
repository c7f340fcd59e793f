"""Low-resolution logits of the decoder to masks in data pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.prompts import MASK_LOGIT

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.geometry import Frame

__all__ = ["cut_to_box", "full_logits", "mask_prompt", "object_masks", "small_masks"]

_EMPTY = (0, 0, 0, 0)


def full_logits(logits: Tensor, frame: Frame) -> Tensor:
    """Logits at data resolution, in the two steps SAM takes.

    Parameters
    ----------
    logits : Tensor, shape (N, M, M)

    Returns
    -------
    Tensor, shape (N, h, w)
        Over the frame's crop.
    """
    size = frame.input_size
    h, w = frame.resized
    full = F.interpolate(
        logits[:, None].float(), (size, size), mode="bilinear", align_corners=False
    )
    full = F.interpolate(full[..., :h, :w], frame.shape, mode="bilinear", align_corners=False)
    return full[:, 0]


def object_masks(logits: Tensor, scores: Tensor, frame: Frame) -> list[ObjectMask]:
    """Masks of N prompts (N, M, M), each exactly as SAM would resize it."""
    low = logits.float().cpu().numpy()
    values = scores.float().clamp(0, 1).tolist()
    found = []
    for i, score in enumerate(values):
        full = full_logits(logits[i : i + 1], frame)[0] > 0
        box, mask = cut_to_box(full.cpu().numpy(), frame.origin)
        found.append(ObjectMask(box, mask, score, low[i].copy(), frame))
    return found


def small_masks(logits: Tensor, scores: Tensor, frame: Frame) -> list[list[ObjectMask]]:
    """The K masks (N, K, M, M) that each of many small objects may have, best first.

    Only the part around each is resized, in one step. Those whose best mask is empty are left out.
    """
    low = logits.float().cpu()
    values = scores.float().clamp(0, 1).tolist()
    found = [
        [_small_mask(one, score, frame) for one in some]
        for some, score in zip(low, values, strict=True)
    ]
    return [some for some in found if some[0].area]


def _small_mask(low: Tensor, score: float, frame: Frame) -> ObjectMask:
    size = low.shape[-1]
    (nh, nw), (h, w) = frame.resized, frame.shape
    scale_y, scale_x = nh / h * size / frame.input_size, nw / w * size / frame.input_size
    rows, cols = _extent(low > 0)
    y0 = int(np.clip(np.floor((rows[0] - 1) / scale_y), 0, h))
    y1 = int(np.clip(np.ceil((rows[1] + 1) / scale_y), 0, h))
    x0 = int(np.clip(np.floor((cols[0] - 1) / scale_x), 0, w))
    x1 = int(np.clip(np.ceil((cols[1] + 1) / scale_x), 0, w))
    # A copy, so that one object does not keep the logits of all others.
    kept = low.numpy().copy()
    if y1 <= y0 or x1 <= x0:
        return ObjectMask(_EMPTY, np.zeros((0, 0), dtype=bool), score, kept, frame)
    yy = ((torch.arange(y0, y1) + 0.5) * scale_y) * 2 / size - 1
    xx = ((torch.arange(x0, x1) + 0.5) * scale_x) * 2 / size - 1
    grid = torch.stack(torch.meshgrid(yy, xx, indexing="ij")[::-1], dim=-1)
    part = F.grid_sample(low[None, None], grid[None], padding_mode="border", align_corners=False)
    origin = (frame.origin[0] + y0, frame.origin[1] + x0)
    box, mask = cut_to_box((part[0, 0] > 0).numpy(), origin)
    return ObjectMask(box, mask, score, kept, frame)


def mask_prompt(one: ObjectMask, frame: Frame, size: int) -> NDArray[np.float32]:
    """A mask as prompt logits (size, size) of a frame; what lies outside the frame is left out."""
    crop = np.full(frame.shape, -MASK_LOGIT, dtype=np.float32)
    (y, x), (h, w) = frame.origin, frame.shape
    y0, x0 = max(one.box[0], y), max(one.box[1], x)
    y1, x1 = min(one.box[2], y + h), min(one.box[3], x + w)
    if y1 > y0 and x1 > x0:
        inside = one.mask[y0 - one.box[0] : y1 - one.box[0], x0 - one.box[1] : x1 - one.box[1]]
        crop[y0 - y : y1 - y, x0 - x : x1 - x][inside] = MASK_LOGIT
    return replace(frame, origin=(0, 0)).mask_to_model(crop, size)


def cut_to_box(
    mask: NDArray[np.bool_], origin: tuple[int, int]
) -> tuple[tuple[int, int, int, int], NDArray[np.bool_]]:
    """Tight half-open box in the plane, and the mask inside it."""
    rows, cols = _extent(torch.from_numpy(mask))
    if rows[1] == 0:
        return _EMPTY, np.zeros((0, 0), dtype=bool)
    y, x = origin
    box = (y + rows[0], x + cols[0], y + rows[1], x + cols[1])
    return box, np.ascontiguousarray(mask[rows[0] : rows[1], cols[0] : cols[1]])


def _extent(mask: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and past-the-last row and column of a mask; (0, 0) twice when it is empty."""
    rows, cols = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        return (0, 0), (0, 0)
    return (int(rows[0]), int(rows[-1]) + 1), (int(cols[0]), int(cols[-1]) + 1)
