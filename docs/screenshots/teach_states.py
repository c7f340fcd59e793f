"""States of the Teach dock that have to be readable; `dock_states.py` makes pictures of them."""

from __future__ import annotations

import math
from dataclasses import replace

from napari_clipsam._plugin.state import Choice, Hint, Progress
from napari_clipsam._plugin.teach_state import Curve, TeachState

FOUND = TeachState(
    images=(Choice("em.tif", "em.tif"), Choice("overview", "overview")),
    image="em.tif",
    label_layers=(
        Choice("mito", "mito"),
        Choice("nuclei", "nuclei", False, "These labels have another shape than the image."),
    ),
    labels="mito",
    words="mitochondria",
    history=("nuclei",),
    known_words=("nuclei", "cells"),
    slices="3, 7, 12",
    tested_on="12",
    tested_edit="12",
    is_stack=True,
    estimate="needs about 2.1 GB, 2 min 40 s on CPU",
    can_teach=True,
)
LEARNING = replace(
    FOUND,
    learning=Progress("learning, 1 min 20 s left", 556, 1000),
    curve=Curve(
        scores=tuple((10.0 * k, 0.41 + 0.37 * (1 - math.exp(-k / 4))) for k in range(11)),
        losses=tuple((5.0 + 2 * k, 1.2 * math.exp(-k / 15) + 0.4) for k in range(48)),
    ),
    score="held-out Dice  0.41 → 0.78",
    score_tip="Dice 0.78: overlap with your labels on slice 12",
    views=("before", "after"),
    view="after",
    view_on="on slice 12",
)
DONE = replace(
    LEARNING,
    learning=None,
    saved="Saved as mitochondria (em.tif, 22 Nov)",
    can_roll_back=True,
    can_segment=True,
    next_slice="Label next: slice 31 (least sure)",
    can_go=True,
    has_next=True,
)

STATES: dict[str, TeachState] = {
    "no-image": TeachState(hint=Hint("Open an image and labels for a few of its slices.")),
    "no-labels": replace(
        FOUND,
        label_layers=(),
        labels="",
        slices="",
        tested_on="",
        is_stack=False,
        estimate="",
        can_teach=False,
        hint=Hint(
            "There are no labels. Make a layer, and paint the structure in a few slices.",
            (("new-labels", "New labels layer"),),
        ),
    ),
    "found": FOUND,
    "partly": replace(
        FOUND,
        slices="3, 7-9, 12, 16~",
        slices_note="Only some is labelled in slice 16: what is far from any label is left open.",
        budget="steps",
    ),
    "learning": LEARNING,
    "done": DONE,
    "not-saved": replace(
        DONE,
        saved="Not saved: mitochondria (em.tif, 22 Nov)",
        can_save=True,
        can_go_on=True,
        hint=Hint(
            "The folder for adapters could not be written (No space left on device). Free some "
            "space or choose another folder; what was there before is unchanged.",
            is_error=True,
            details="OSError: 28",
        ),
    ),
    "cut-off": replace(
        FOUND,
        hint=Hint(
            "Teaching 'mitochondria' (em.tif) was cut off after 1 min 20 s. Go on with it?",
            (("go-on", "Go on"), ("discard", "Delete it")),
        ),
    ),
}
