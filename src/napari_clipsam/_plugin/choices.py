"""What there is to choose from: images, labels layers, models, adapters, samples, objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from napari_clipsam._machine import size_text
from napari_clipsam._plugin import wording
from napari_clipsam._plugin.state import Choice
from napari_clipsam.errors import PlaneError
from napari_clipsam.session.objects import plane_axes, slices_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from numpy.typing import NDArray

    from napari_clipsam._plugin.engine import Setup
    from napari_clipsam._plugin.focus import Focus
    from napari_clipsam._plugin.keeper import Keeper
    from napari_clipsam._plugin.layers import LayerImage
    from napari_clipsam._plugin.state import DockState
    from napari_clipsam.session.objects import PlaneKey, SessionObject

__all__ = [
    "MARKS",
    "ROLE",
    "SAMPLES",
    "best_image",
    "editable",
    "label_mask",
    "layer_choices",
    "model_choices",
    "next_weak_object",
    "next_weak_slice",
    "object_rows",
    "stack_choices",
]

#: Sample data by their key in the manifest.
SAMPLES = (
    Choice("nuclei", "fluorescent nuclei"),
    Choice("histology", "stained tissue"),
    Choice("nuclei_stack", "a 3D stack"),
)
#: Key in the metadata of the plugin's own layers, and what it says of those that take prompts.
ROLE = "clipsam_role"
MARKS = ("clicks", "shapes")


def layer_choices(
    viewer: ViewerModel, focus: Focus, keeper: Keeper, state: DockState
) -> dict[str, Any]:
    """The part of the state that depends on which layers there are."""
    images = [layer for layer in viewer.layers if isinstance(layer, Image) and not is_own(layer)]
    labels = [layer for layer in viewer.layers if isinstance(layer, Labels) and not is_own(layer)]
    names = {keeper.labels.name_of(layer): layer for layer in labels}
    channels = focus.channels()
    return {
        "images": tuple(Choice(layer.name, layer.name) for layer in images),
        "image": focus.name,
        "channels": tuple(Choice(c.label, c.label) for c in channels),
        "channel": "" if focus.image is None else focus.image.channel.label,
        "label_layers": (
            Choice("", "a new layer"),
            *(_labels_choice(name, layer, focus) for name, layer in names.items()),
        ),
        "keep_into": state.keep_into if state.keep_into in names else "",
        "samples": () if images else SAMPLES,
    }


def is_own(layer: Any) -> bool:
    """Whether a layer is one of the plugin's own: prompts, preview, similarity."""
    return ROLE in layer.metadata


def editable(layer: Labels) -> str:
    """Why a labels layer cannot be written to, "" if it can."""
    if layer.multiscale:
        return "Labels with several resolutions cannot be changed. Keep into a new layer."
    kind = type(layer.data).__module__.partition(".")[0]
    if kind not in ("numpy", "zarr"):
        return f"Labels that are read lazily ({kind}) cannot be changed. Keep into a new layer."
    if isinstance(layer.data, np.ndarray) and not layer.data.flags.writeable:
        return "This labels layer is read-only. Keep into a new layer."
    if getattr(layer.data, "read_only", False):
        return "This labels layer is read-only. Keep into a new layer."
    return ""


def _labels_choice(name: str, layer: Labels, focus: Focus) -> Choice:
    why = editable(layer)
    if not why and focus.image is not None and tuple(layer.data.shape) != focus.image.shape:
        why = "This labels layer has another shape than the image. Keep into a new layer."
    return Choice(name, layer.name, enabled=not why, why=why)


def best_image(viewer: ViewerModel, former: LayerImage | None) -> str:
    """The image a user most likely means: the former, the active, or the topmost that is shown."""
    if former is not None and former.layer in viewer.layers:
        return str(former.layer.name)
    images = [layer for layer in viewer.layers if isinstance(layer, Image) and not is_own(layer)]
    active = viewer.layers.selection.active
    if active in images:
        return str(active.name)
    shown = [layer for layer in images if layer.visible] or images
    return str(shown[-1].name) if shown else ""


def model_choices(setup: Setup) -> dict[str, Any]:
    """Models and adapters there are; reads the user's folders, and imports torch."""
    from napari_clipsam.adapters.library import user_adapters
    from napari_clipsam.models.registry import models

    found = [
        Choice(
            entry.name,
            _model_words(entry.name, entry.size_mb),
            entry.installed,
            ""
            if entry.installed
            else f"{entry.name} is not on this computer. Get it in the Library dock, or with "
            f"`napari-clipsam models download {entry.name}`.",
        )
        for entry in models()
    ]
    own = [Choice(str(path), name) for name, path in user_adapters().items()]
    return {
        "models": tuple(found),
        "adapters": (*wording.only("default"), *wording.only("none"), *own),
    }


def _model_words(name: str, size_mb: float | None) -> str:
    shown = wording.named(name)
    return shown if size_mb is None else f"{shown} ({size_text(size_mb * 1e6)})"


def stack_choices(focus: Focus, state: DockState) -> dict[str, Any]:
    """The part of the state that depends on which axis holds the slices."""
    extent = focus.extent()
    whole = (0, max(0, extent - 1))
    fits = extent == state.z_extent and state.z_range[1] <= whole[1]
    axis = focus.stack_axis
    labels = () if focus.image is None else focus.image.reader().labels
    name = labels[axis] if axis is not None and labels[axis].isalpha() else "slice"
    z_range = state.z_range if fits else whole
    return {"z_extent": extent, "z_range": z_range, "stack_axis": name}


def object_rows(keeper: Keeper, focus: Focus) -> dict[str, Any]:
    """The part of the state that depends on the session."""
    session = keeper.state
    area, volume, unit = _pixel_size(focus)
    in_depth = volume is not None
    pixel, weak = volume if in_depth else area, wording.weak_score(session.objects.values())
    rows = (wording.object_row(one, pixel, weak) for one in session.objects.values())
    open_key = next((one.key for one in session.draft if one.label), "")
    return {
        "objects": tuple(sorted(rows, key=lambda row: (row.score, row.label))),
        "selected": open_key,
        "can_keep": any(m.area for one in session.draft for m in one.masks.values()),
        "can_clear": bool(session.draft),
        "can_propagate": bool(session.draft) and focus.extent() > 1,
        "undo_text": keeper.undo_text,
        "redo_text": keeper.redo_text,
        "size_title": wording.size_title(unit, in_depth),
    }


def _pixel_size(focus: Focus) -> tuple[float | None, float | None, str | None]:
    """Area of a pixel, volume of a voxel (None in 2D), and the unit of length, as far as known."""
    key, image = focus.shown_key(), focus.image
    if key is None or image is None:
        return None, None, None
    spacing, unit = image.spacing, image.unit
    y, x = plane_axes(key)
    area = spacing[y] * spacing[x]
    axis = focus.stack_axis
    volume = None if axis is None else area * spacing[axis]
    if unit in (None, "pixel"):
        return None, None if volume is None else 1.0, unit
    return area, volume, unit


def label_mask(viewer: ViewerModel, focus: Focus, key: PlaneKey) -> NDArray[np.bool_]:
    """The selected label of the active (else the topmost) labels layer, in one plane.

    Raises
    ------
    PlaneError
        There is no such layer, it has another shape, or the label is not in this slice.
    """
    labels = [layer for layer in viewer.layers if isinstance(layer, Labels) and not is_own(layer)]
    active = viewer.layers.selection.active
    chosen = active if active in labels else labels[-1] if labels else None
    if chosen is None:
        raise PlaneError("There are no labels to take a mask from. Open or paint some first.")
    data = chosen.data[0] if chosen.multiscale else chosen.data
    if focus.image is None or tuple(data.shape) != focus.image.shape:
        raise PlaneError(
            f"{chosen.name} has another shape than the image. Choose labels of the same shape."
        )
    mask = np.asarray(data[slices_of(key)]) == chosen.selected_label
    if not mask.any():
        raise PlaneError(
            f"Label {chosen.selected_label} of {chosen.name} is not in this slice. Pick one that "
            "is, with napari's colour picker."
        )
    return mask


def next_weak_slice(one: SessionObject, shown: PlaneKey | None) -> PlaneKey:
    """The weakest slice of an object, or the next weaker one after the slice that is shown."""
    order = sorted(one.masks, key=lambda key: one.masks[key].score)
    at = order.index(shown) if shown in order else -1
    return order[(at + 1) % len(order)]


def next_weak_object(state: DockState) -> str:
    """Key of the weakest object, or of the next one after the object that is open."""
    keys = [row.key for row in state.objects]
    if not keys:
        return ""
    at = keys.index(state.selected) if state.selected in keys else -1
    return keys[(at + 1) % len(keys)]
