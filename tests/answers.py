"""Answers of a Segmenter, compared."""

from __future__ import annotations

import numpy as np

from napari_clipsam.inference.requests import Prediction

__all__ = ["same"]


def same(a: Prediction, b: Prediction) -> bool:
    """Whether two answers are equal to the last bit."""
    pairs = list(zip([*a.objects, *a.alternatives], [*b.objects, *b.alternatives], strict=True))
    return (a.match, a.presence, a.scores) == (b.match, b.presence, b.scores) and all(
        x.box == y.box and np.array_equal(x.mask, y.mask) and np.array_equal(x.logits, y.logits)
        for x, y in pairs
    )
