"""How answers change the preview: pure functions from drafts and answers to drafts.

A draft is what the user sees before it is kept: one object with prompts in any number of planes,
all that a word names, or each instance of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from napari_clipsam.inference.checks import split_boxes
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.objects import SessionObject

if TYPE_CHECKING:
    from napari_clipsam.inference.requests import ObjectMask, Prediction, Target
    from napari_clipsam.session.objects import PlaneKey

__all__ = [
    "Draft",
    "Origin",
    "earlier_mask",
    "fitting",
    "new_object",
    "object_at",
    "prompts_of",
    "with_closer",
    "with_concept",
    "with_follower",
    "with_instances",
    "with_keys_of",
    "with_linked",
    "with_object",
    "with_one_more",
    "without_plane",
]

Draft = tuple[SessionObject, ...]


@dataclass(frozen=True)
class Origin:
    """What objects are made from: names of image layer, model, adapter and CLIP."""

    image: str
    model: str
    adapter: str
    clip: str


def new_object(
    origin: Origin,
    word: str | None,
    target: Target,
    prompts: Mapping[PlaneKey, Prompts],
    masks: Mapping[PlaneKey, ObjectMask],
) -> SessionObject:
    """An object that is not kept yet."""
    return SessionObject(
        key=uuid4().hex,
        label=0,
        image=origin.image,
        labels=None,
        word=word,
        target=target,
        prompts=dict(prompts),
        masks=dict(masks),
        model=origin.model,
        adapter=origin.adapter,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        clip=origin.clip,
    )


def with_object(
    draft: Draft, origin: Origin, key: PlaneKey, prompts: Prompts, answer: Prediction
) -> Draft:
    """The answer to clicks and boxes in one plane: an object, or one for each of several boxes.

    Objects of the draft keep what they have in other planes. A kept one that was reopened is
    corrected, however it was found.
    """
    former = draft if all(one.target == "object" or one.label for one in draft) else ()
    found = []
    for i, (single, mask) in enumerate(zip(split_boxes(prompts), answer.objects, strict=True)):
        word = prompts.text
        if i < len(former):
            one = replace(former[i], word=word or former[i].word, target="object")
        else:
            one = new_object(origin, word, "object", {}, {})
        found.append(_with_plane(one, key, single, mask, origin))
    left = (_without(one, key) for one in former[len(found) :])
    return (*found, *(one for one in left if one.masks))


def with_closer(draft: Draft, key: PlaneKey, first: Prediction, closer: Prediction) -> Draft:
    """The masks of a closer look in place of the first ones; the objects stay who they are."""
    better = {id(old): new for old, new in zip(first.objects, closer.objects, strict=True)}

    def changed(one: SessionObject) -> SessionObject:
        new = better.get(id(one.masks.get(key)))
        return one if new is None else replace(one, masks={**one.masks, key: new})

    return tuple(changed(one) for one in draft)


def with_keys_of(draft: Draft, other: Draft, before: Draft) -> Draft:
    """What is new in a draft under the keys of what was new in another one, as far as they go."""
    known = {one.key for one in before}
    keys = iter([one.key for one in other if one.key not in known])
    return tuple(
        one if one.key in known else replace(one, key=next(keys, one.key)) for one in draft
    )


def with_concept(
    draft: Draft, origin: Origin, key: PlaneKey, prompts: Prompts, answer: Prediction
) -> Draft:
    """All that a word names in one plane, beside what it names in others."""
    same = [o for o in draft if o.target == "concept" and o.word == prompts.text]
    if not answer.objects:
        return tuple(one for one in (_without(o, key) for o in same) if one.masks)
    one = same[0] if same else new_object(origin, prompts.text, "concept", {}, {})
    return (_with_plane(one, key, prompts, answer.objects[0], origin),)


def with_instances(
    draft: Draft, origin: Origin, key: PlaneKey, prompts: Prompts, answer: Prediction
) -> Draft:
    """Every object of a word in one plane, beside those in others."""
    same = tuple(o for o in draft if o.target == "instances" and o.word == prompts.text)
    others = tuple(one for one in (_without(o, key) for o in same) if one.masks)
    asked = {key: Prompts(prompts.text)}
    found = (
        new_object(origin, prompts.text, "instances", asked, {key: mask}) for mask in answer.objects
    )
    return (*others, *found)


def with_one_more(
    draft: Draft, origin: Origin, key: PlaneKey, prompts: Prompts, answer: Prediction
) -> tuple[Draft, str]:
    """One object more by click or box, in place of those it mostly covers; and what was done."""
    word = prompts.text
    added = tuple(
        new_object(origin, word, "instances", {key: single}, {key: mask})
        for single, mask in zip(split_boxes(prompts), answer.objects, strict=True)
        if mask.area
    )
    masks = [one.masks[key] for one in added]
    left = tuple(o for o in draft if key not in o.masks or not _covered(o.masks[key], masks))
    replaced = len(draft) - len(left)
    done = "replaced" if replaced else "added"
    return (*left, *added), f"{done} {len(added)}" if added else "nothing there"


def with_linked(
    origin: Origin, key: PlaneKey, word: str, found: Mapping[str, ObjectMask], draft: Draft
) -> Draft:
    """One slice of a stack: masks by the key of the object that they belong to.

    They take the place of what the word found there before, but not of objects that the user added
    or opened.
    """
    known = {}
    for one in draft:
        is_former = one.target == "instances" and one.word == word and not one.label
        asked = one.prompts.get(key)
        if is_former and asked is not None and not asked.has_object:
            one = _without(one, key)
            if not one.masks:
                continue
        known[one.key] = one
    fixed = [one.masks[key] for one in known.values() if key in one.masks and one.word == word]
    for name, mask in found.items():
        if _covered(mask, fixed):
            continue
        one = known.get(name) or replace(new_object(origin, word, "instances", {}, {}), key=name)
        known[name] = _with_plane(one, key, Prompts(word), mask, origin)
    return tuple(known.values())


def with_follower(name: str, key: PlaneKey, mask: ObjectMask | None, draft: Draft) -> Draft:
    """One object followed into one slice; where it was prompted, its prompts have the word."""

    def follow(one: SessionObject) -> SessionObject:
        asked = one.prompts.get(key)
        if one.key != name or (asked is not None and asked.has_object):
            return one
        masks = {k: m for k, m in one.masks.items() if k != key}
        return replace(one, masks=masks if mask is None else {**masks, key: mask})

    return tuple(map(follow, draft))


def prompts_of(draft: Draft) -> dict[PlaneKey, Prompts]:
    """Clicks and boxes of a draft by plane, as layers show them; none of "every one"."""
    found: dict[PlaneKey, list[Prompts]] = {}
    for one in draft:
        for key, prompts in one.prompts.items():
            if one.target != "instances" and prompts.has_object:
                found.setdefault(key, []).append(prompts)
    return {key: _joined(parts) for key, parts in found.items()}


def without_plane(draft: Draft, key: PlaneKey) -> Draft:
    """A draft without what it has in one plane."""
    return tuple(one for one in (_without(o, key) for o in draft) if one.masks)


def fitting(draft: Draft, shape: tuple[int, ...]) -> Draft:
    """The objects that lie in an image of this shape: a session may be about another one."""
    return tuple(one for one in draft if all(_fits(k, m, shape) for k, m in one.masks.items()))


def object_at(draft: Draft, key: PlaneKey, y: float, x: float) -> SessionObject | None:
    """The object under a point of a plane; the last one drawn lies on top."""
    row, column = round(y), round(x)
    for one in reversed(draft):
        mask = one.masks.get(key)
        if mask is None:
            continue
        y0, x0, y1, x1 = mask.box
        if y0 <= row < y1 and x0 <= column < x1 and mask.mask[row - y0, column - x0]:
            return one
    return None


def earlier_mask(one: SessionObject, key: PlaneKey, prompts: Prompts) -> ObjectMask | None:
    """The mask that prompts refine: what the object has there, if they only add to its prompts.

    Where a prompt was taken back, its trace in the mask must not stay, so there is none.
    """
    mask = one.masks.get(key)
    if mask is None or not mask.area:
        return None
    former = one.prompts.get(key)
    if former is None or not former.has_object:
        return mask
    grown = _clicks(former) < _clicks(prompts) and np.array_equal(prompts.boxes, former.boxes)
    return mask if grown else None


def _with_plane(
    one: SessionObject, key: PlaneKey, prompts: Prompts, mask: ObjectMask, origin: Origin
) -> SessionObject:
    return replace(
        one,
        prompts={**one.prompts, key: prompts},
        masks={**one.masks, key: mask},
        model=origin.model,
        adapter=origin.adapter,
        clip=origin.clip,
    )


def _without(one: SessionObject, key: PlaneKey) -> SessionObject:
    return replace(
        one,
        prompts={k: p for k, p in one.prompts.items() if k != key},
        masks={k: m for k, m in one.masks.items() if k != key},
    )


def _covered(mask: ObjectMask, by: list[ObjectMask]) -> bool:
    """Whether more than half of a mask lies in one of the others, or half of that one in it."""
    return any(mask.shared(other) > 0.5 * min(mask.area, other.area) for other in by)


def _clicks(prompts: Prompts) -> set[tuple[float, float, int]]:
    return {
        (y, x, label)
        for (y, x), label in zip(prompts.points.tolist(), prompts.labels.tolist(), strict=True)
    }


def _joined(parts: list[Prompts]) -> Prompts:
    points, labels, boxes = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("points", "labels", "boxes")
    )
    return Prompts(None, points, labels, boxes, parts[0].mask if len(parts) == 1 else None)


def _fits(key: PlaneKey, mask: ObjectMask, shape: tuple[int, ...]) -> bool:
    if len(key) != len(shape):
        return False
    if any(k is not None and k >= n for k, n in zip(key, shape, strict=True)):
        return False
    height, width = (n for k, n in zip(key, shape, strict=True) if k is None)
    return mask.box[2] <= height and mask.box[3] <= width
