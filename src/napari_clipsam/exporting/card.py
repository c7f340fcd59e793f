"""What people read of an exported model: its card, and a picture of its example."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_clipsam.exporting.description import SMALLEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.exporting.facts import Facts

__all__ = ["cover", "write_card"]

_PAPER = (
    '"CLIP-Guided SAM: Parameter-Efficient Semantic Conditioning for Promptable Segmentation"\n'
    "([arXiv:2605.24807](https://arxiv.org/abs/2605.24807))"
)
_TINT = np.array([255, 140, 0], dtype=np.float64)
_COVER_SIDE = 512


def write_card(facts: Facts) -> str:
    """The card as Markdown."""
    largest = 2 * facts.input_size
    untrained = "" if facts.trained_for else " The adapter was not trained for this word by name."
    return f"""# {facts.title}

Marks all *{facts.word}* in a 2D image. The network is CLIP-Guided SAM, {_PAPER}:
the Segment Anything Model, conditioned inside its encoder on a word. Here the word is built in, so
no text is given any more.{untrained}

![An image, and what is found in it](cover.png)

## Input and output

| | |
| --- | --- |
| input | one RGB image of 8 bits (0 to 255), {SMALLEST} to {largest} pixels a side |
| output | for each pixel the probability, 0 to 1, of {facts.word}; above 0.5 it is |
| nothing there | where no {facts.word} are found at all, every probability is 0 |

A grey image is given three times, as red, green and blue. Images of 16 bits are scaled to 8 bits
first, with the same limits for a whole stack; napari-clipsam takes the {facts.percentiles}
percentiles. The image is shown to the network with {facts.input_size} pixels along its longer
side. Cut a larger one into overlapping tiles of {facts.input_size} pixels.

## What it was made of

{_lists(facts.made_of)}

## Training

{_lists(facts.provenance) or "Nothing is recorded of it."}

## Validation

{_scores(facts)}
On images of your own, compare `probability > 0.5` with a mask drawn by hand:
Dice = 2 |A and B| / (|A| + |B|), 1 is perfect. Look at images without any {facts.word}, too.

## Licence and citation

{facts.licence_text} If you use this model, please cite {_PAPER}.
"""


def _scores(facts: Facts) -> str:
    if not facts.scores:
        return "No score on held-out images is recorded of the adapter.\n"
    how = ""
    if facts.redrawn:
        how = " by napari-clipsam, which redraws masks from the pixels; this network does not"
    return (
        f"Measured on held-out images, which were not trained on{how}:\n\n{_lists(facts.scores)}\n"
    )


def _lists(values: Mapping[str, Any], depth: int = 0) -> str:
    """Nested values as Markdown lists."""
    lines = []
    for name, value in values.items():
        start = f"{'  ' * depth}- {name}"
        if isinstance(value, Mapping):
            lines += [start, _lists(value, depth + 1)]
        else:
            lines.append(f"{start}: {_said(value)}")
    return "\n".join(line for line in lines if line)


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "; ".join(_said(one) for one in value)
    return str(value)


def cover(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> bytes:
    """An image and, beside it, what was found in it, as PNG.

    Parameters
    ----------
    rgb : ndarray, shape (H, W, 3)
    mask : ndarray, shape (H, W)
    """
    tinted = np.where(mask[..., None], 0.5 * rgb + 0.5 * _TINT, rgb).astype(np.uint8)
    edge = mask & ~_inner(mask)
    tinted[edge] = _TINT.astype(np.uint8)
    both = Image.fromarray(np.concatenate([_square(rgb), _square(tinted)], axis=1))
    both = both.resize((2 * _COVER_SIDE, _COVER_SIDE), Image.Resampling.BILINEAR)
    data = io.BytesIO()
    both.save(data, format="PNG")
    return data.getvalue()


def _inner(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose four neighbours are in the mask, too."""
    padded = np.pad(mask, 1, mode="edge")
    sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return mask & np.logical_and.reduce(sides)


def _square(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The largest square in the middle."""
    side = min(rgb.shape[:2])
    y, x = ((length - side) // 2 for length in rgb.shape[:2])
    return rgb[y : y + side, x : x + side]
