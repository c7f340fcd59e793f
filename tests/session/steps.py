"""A session in memory, driven by random steps; its journal hears what a plugin would tell it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.history import Change, History, LabelPatch, Mark, patches_for
from napari_clipsam.session.objects import (
    Box,
    PlaneKey,
    SessionObject,
    SessionState,
    plane_axes,
    slices_of,
)

if TYPE_CHECKING:
    from napari_clipsam.session.journal import Journal

ACTIONS = ("draft", "keep", "correct", "delete", "paint", "undo", "redo")
SHAPE = (3, 12, 10)


class ArrayLabels:
    """Labels layers as arrays."""

    def __init__(self, **layers: np.ndarray) -> None:
        self.layers = layers

    def read(self, layer: str, plane: PlaneKey, box: Box) -> np.ndarray | None:
        if layer not in self.layers:
            return None
        return self.layers[layer][slices_of(plane, box)].copy()

    def write(self, layer: str, plane: PlaneKey, box: Box, values: np.ndarray) -> None:
        self.layers[layer][slices_of(plane, box)] = values


class Driver:
    """What a user does, at random; the same seeds always do the same."""

    def __init__(
        self,
        layers: dict[str, np.ndarray] | None = None,
        journal: Journal | None = None,
        clip: str = "starter",
    ) -> None:
        self.clip = clip
        self.labels = ArrayLabels(**(layers or {"cells": np.zeros(SHAPE, np.int32)}))
        self.history = History(self.labels)
        self.state = SessionState()
        self.journal = journal
        self.touched: set[tuple[str, PlaneKey]] = set()
        self._made = 0
        if journal is not None:
            for name, array in self.labels.layers.items():
                journal.layer(name, array.shape, array.dtype, {"scale": [1.0, 0.5, 0.5]})

    def act(self, action: str, seed: int) -> None:
        getattr(self, action)(np.random.default_rng(seed))

    # -- actions -----------------------------------------------------------------------------------

    def draft(self, rng: np.random.Generator) -> None:
        found = tuple(self._object(rng) for _ in range(rng.integers(0, 3)))
        self._change("click", self.state.with_draft(found), ())

    def keep(self, rng: np.random.Generator) -> None:
        layer = str(rng.choice(list(self.labels.layers)))
        first = max((one.label for one in self.state.objects.values()), default=0) + 1
        kept = [
            replace(one, label=first + i, labels=layer) for i, one in enumerate(self.state.draft)
        ]
        patches = self._patches(layer, [(one, None) for one in kept], bool(rng.integers(2)))
        self._change("keep", self.state.with_objects(kept).with_draft(()), patches)

    def correct(self, rng: np.random.Generator) -> None:
        former = self._any(rng)
        if former is not None:
            new = replace(former, masks={**former.masks, **self._object(rng).masks})
            patches = self._patches(former.labels or "", [(new, former)], bool(rng.integers(2)))
            self._change("correct", self.state.with_objects([new]), patches)

    def delete(self, rng: np.random.Generator) -> None:
        former = self._any(rng)
        if former is not None:
            gone = replace(former, masks={})
            patches = self._patches(former.labels or "", [(gone, former)], True)
            self._change("delete", self.state.without([former.key]), patches)

    def paint(self, rng: np.random.Generator) -> None:
        layer = str(rng.choice(list(self.labels.layers)))
        plane, box = self._place(rng, self.labels.layers[layer].shape)
        self._touch(layer, plane)
        before = self.labels.read(layer, plane, box)
        assert before is not None
        after = np.where(rng.random(before.shape) < 0.6, rng.integers(0, 90), before)
        after = after.astype(before.dtype)
        self.labels.write(layer, plane, box, after)
        if self.journal is not None:
            self.journal.painted(LabelPatch(layer, plane, box, before, after))

    def undo(self, rng: np.random.Generator) -> None:
        change = self.history.undo()
        if change is not None:
            self.state = change.before
            if self.journal is not None:
                self.journal.append_undo()

    def redo(self, rng: np.random.Generator) -> None:
        change = self.history.redo()
        if change is not None:
            self.state = change.after
            if self.journal is not None:
                self.journal.append_redo()

    # -- parts -------------------------------------------------------------------------------------

    def _any(self, rng: np.random.Generator) -> SessionObject | None:
        kept = list(self.state.objects.values())
        return kept[rng.integers(len(kept))] if kept else None

    def _change(self, what: str, after: SessionState, patches: tuple[LabelPatch, ...]) -> None:
        change = Change(what, self.state, after, patches)
        self.history.push(change)
        self.state = after
        if self.journal is not None:
            self.journal.append(change)

    def _patches(
        self,
        layer: str,
        pairs: list[tuple[SessionObject, SessionObject | None]],
        overwrite: bool,
    ) -> tuple[LabelPatch, ...]:
        planes: dict[PlaneKey, list[Mark]] = {}
        for new, former in pairs:
            old = {} if former is None else former.masks
            for plane in {**old, **new.masks}:
                mark = Mark(new.label, new.masks.get(plane), old.get(plane))
                planes.setdefault(plane, []).append(mark)
        found: list[LabelPatch] = []
        for plane, marks in planes.items():
            self._touch(layer, plane)
            found += patches_for(self.labels, layer, plane, marks, overwrite)
        return tuple(found)

    def _touch(self, layer: str, plane: PlaneKey) -> None:
        if (layer, plane) not in self.touched:
            self.touched.add((layer, plane))
            array = self.labels.layers[layer][slices_of(plane)]
            if self.journal is not None and array.any():
                self.journal.base(layer, plane, array)

    def _object(self, rng: np.random.Generator) -> SessionObject:
        self._made += 1
        shape = next(iter(self.labels.layers.values())).shape
        masks, prompts = {}, {}
        for _ in range(rng.integers(1, 3)):
            plane, box = self._place(rng, shape)
            size = (box[2] - box[0], box[3] - box[1])
            masks[plane] = ObjectMask(box, rng.random(size) < 0.7, float(rng.random()))
            prompts[plane] = random_prompts(rng, tuple(shape[axis] for axis in plane_axes(plane)))
        word = str(rng.choice(["nuclei", "Zellkern α"])) if rng.integers(2) else None
        target = str(rng.choice(["object", "concept", "instances"]))
        made: dict[str, Any] = {"model": "starter", "adapter": "none", "created": "2026-01-02"}
        made["clip"] = self.clip
        return SessionObject(
            f"{self._made:032x}", 0, "image", None, word, target, prompts, masks, **made
        )

    def _place(self, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[PlaneKey, Box]:
        """A plane, mostly as stacks are looked at, and a box in it."""
        open_axes = {len(shape) - 2, len(shape) - 1}
        if rng.random() < 0.2:
            open_axes = set(rng.choice(len(shape), 2, replace=False).tolist())
        plane = tuple(
            None if axis in open_axes else int(rng.integers(size))
            for axis, size in enumerate(shape)
        )
        height, width = (shape[axis] for axis in plane_axes(plane))
        y0, x0 = int(rng.integers(height)), int(rng.integers(width))
        y1, x1 = int(rng.integers(y0, height)) + 1, int(rng.integers(x0, width)) + 1
        return plane, (y0, x0, y1, x1)


def random_prompts(rng: np.random.Generator, shape: tuple[int, ...]) -> Prompts:
    """Prompts of any kind, never none at all."""
    count = int(rng.integers(0, 4))
    mask = None
    if rng.random() < 0.3:
        mask = rng.random(shape) < 0.5 if rng.integers(2) else rng.normal(size=shape)
    y0, x0 = rng.random(2)
    return Prompts(
        str(rng.choice(["nuclei", "a 'quoted' word"])),
        rng.random((count, 2)) * shape,
        rng.integers(0, 2, count),
        [[y0, x0, y0 + 1, x0 + 2.5]] if rng.integers(2) else None,
        mask,
    )
