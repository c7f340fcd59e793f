"""Which prompts go together, and for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.errors import PromptError
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from napari_clipsam.inference.requests import ObjectMask, Target

__all__ = ["check_prompts", "split_boxes"]


def check_prompts(
    prompts: Prompts, target: Target, previous: ObjectMask | None, shape: tuple[int, int]
) -> None:
    """Refuse prompts that do not go together.

    Raises
    ------
    PromptError
    """
    if target not in ("concept", "object", "instances"):
        raise PromptError(f"There is no target '{target}'. Use concept, object or instances.")
    masks = (prompts.mask is not None) + (previous is not None)
    if target != "object":
        if masks or len(prompts.boxes):
            raise PromptError(
                f"A box or mask points at one object and cannot guide {target}. Use target object, "
                "or leave it out."
            )
        return
    if not masks and not prompts.has_object:
        raise PromptError("There is nothing to go by. Give a point, a box or a mask.")
    if masks > 1 or (masks and len(prompts.boxes) > 1):
        raise PromptError("A mask is refined one at a time. Give one mask, and one box at most.")
    if previous is None:
        return
    if previous.logits is None and not previous.area:
        raise PromptError("The earlier mask is empty. Leave it out, and give a point or a box.")
    bottom, right = previous.box[2:]
    if previous.frame is not None:
        ends = [s.stop for s in previous.frame.slices]
        bottom, right = max(bottom, ends[0]), max(right, ends[1])
    if bottom > shape[0] or right > shape[1]:
        raise PromptError(
            f"The earlier mask reaches to row {bottom}, column {right}, beyond this image of "
            f"{shape[0]} x {shape[1]} pixels. Give one that was found in this image."
        )


def split_boxes(prompts: Prompts) -> list[Prompts]:
    """Several boxes are several objects; a point belongs to the boxes it lies in.

    Raises
    ------
    PromptError
        A point lies in none of several boxes.
    """
    if len(prompts.boxes) < 2:
        return [prompts]
    points = prompts.points
    # Boxes count whole pixels, points have pixel centres at integers.
    inside = np.array(
        [((points >= b[:2] - 0.5) & (points <= b[2:] - 0.5)).all(axis=1) for b in prompts.boxes]
    )
    stray = ~inside.any(axis=0)
    if stray.any():
        y, x = points[stray][0]
        raise PromptError(
            f"The point y={y:g}, x={x:g} lies in none of the boxes. With several boxes, each an "
            "object, give only points inside them."
        )
    return [
        Prompts(prompts.text, points[within], prompts.labels[within], box[None])
        for box, within in zip(prompts.boxes, inside, strict=True)
    ]
