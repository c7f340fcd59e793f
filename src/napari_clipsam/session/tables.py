"""Objects of a session as files: a table for spreadsheets, and COCO for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.outputs import replacing
from napari_clipsam.session.grid import Grid
from napari_clipsam.session.objects import (
    PlaneKey,
    SessionObject,
    number_runs,
    plane_axes,
    slices_of,
)

__all__ = ["as_painted", "write_coco", "write_table"]

_COLUMNS = (
    "id",
    "word",
    "target",
    "score",
    "slices",
    "pixels",
    "area_um2",
    "volume_um3",
    "prompts",
    "model",
    "adapter",
    "clip",
    "created",
    "image",
    "labels",
    "key",
)


def as_painted(
    objects: Iterable[SessionObject], labels: Mapping[str, Any]
) -> tuple[SessionObject, ...]:
    """Objects with the masks that their labels layers show now, after overwriting and painting.

    Parameters
    ----------
    objects : iterable of SessionObject
    labels : mapping of str to array
        Labels layers by name, read plane by plane; objects of other layers stay as they are.

    Returns
    -------
    tuple of SessionObject
        Masks are in planes of the last two axes; a plane that was not an object's yet has the
        object's mean score.
    """
    objects = tuple(objects)
    shown: dict[tuple[str, int], dict[PlaneKey, tuple[Any, ...]]] = {}
    for name, array in labels.items():
        wanted = [one.label for one in objects if one.labels == name]
        for held in np.ndindex(array.shape[:-2]) if wanted else ():
            plane = (*held, None, None)
            for label, *found in _regions(np.asarray(array[slices_of(plane)]), wanted):
                shown.setdefault((name, label), {})[plane] = tuple(found)

    def painted(one: SessionObject) -> SessionObject:
        if one.labels not in labels:
            return one
        found = shown.get((one.labels or "", one.label), {})
        scores = {plane: mask.score for plane, mask in one.masks.items()}
        masks = {
            plane: ObjectMask(box, mask, scores.get(plane, one.score))
            for plane, (box, mask) in found.items()
        }
        return replace(one, masks=masks)

    return tuple(painted(one) for one in objects)


def write_table(
    path: str | Path,
    objects: Iterable[SessionObject],
    grids: Mapping[str, Grid],
    overwrite: bool = False,
) -> Path:
    """Write one row for each object as CSV (UTF-8).

    Columns: id (its value in the labels), word, target, score, slices, pixels (in all slices
    together), area_um2 (in the slice where it is largest), volume_um3 (where there is depth; in a
    time series at the time when it is largest),
    prompts (JSON by slice), model, adapter, clip, created, image, labels, key.

    Parameters
    ----------
    path : str or Path
    objects : iterable of SessionObject
    grids : mapping of str to Grid
        Of each image by name; sizes are left empty where it is missing.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        As for `outputs.replacing`.
    """
    path = Path(path)
    with replacing(path, overwrite) as part, part.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        table.writerows(_row(one, grids.get(one.image)) for one in objects)
    return path


def write_coco(
    path: str | Path,
    objects: Iterable[SessionObject],
    grids: Mapping[str, Grid],
    overwrite: bool = False,
) -> Path:
    """Write masks as COCO JSON: an image for each slice, a category for each word.

    Masks are run lengths, column by column, as pycocotools reads them. `plane` of an image names
    the slice; `object_id` of an annotation is the object's value in the labels, the same in every
    slice, beside the names of the model, adapter and CLIP it was made with.

    Parameters
    ----------
    path : str or Path
    objects : iterable of SessionObject
        Those of images that have no grid are left out.
    grids : mapping of str to Grid
        Of each image by name.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        As for `outputs.replacing`.
    """
    path = Path(path)
    images: dict[tuple[str, PlaneKey], dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for one in objects:
        if one.image not in grids:
            continue
        shape = grids[one.image].shape
        category = categories.setdefault(one.word or "object", len(categories) + 1)
        for plane, mask in one.masks.items():
            height, width = (shape[axis] for axis in plane_axes(plane))
            image = images.setdefault(
                (one.image, plane),
                {
                    "id": len(images) + 1,
                    "file_name": one.image,
                    "plane": list(plane),
                    "height": height,
                    "width": width,
                },
            )
            if mask.area:
                found = _annotation(len(annotations) + 1, image, category, mask)
                annotations.append({**found, "object_id": one.label, **_made_with(one)})
    content = {
        "info": {"description": "Exported by napari-clipsam"},
        "images": list(images.values()),
        "categories": [{"id": i, "name": name} for name, i in categories.items()],
        "annotations": annotations,
    }
    with replacing(path, overwrite) as part:
        part.write_text(json.dumps(content), encoding="utf-8")
    return path


def _row(one: SessionObject, grid: Grid | None) -> list[Any]:
    area, volume = (None, None) if grid is None else _sizes(one, grid)
    return [
        one.label,
        _text(one.word or ""),
        one.target,
        round(one.score, 4),
        _slices(one.masks),
        one.pixels,
        _number(area),
        _number(volume),
        json.dumps(_prompts(one), ensure_ascii=False),
        _text(one.model),
        _text(one.adapter),
        _text(one.clip),
        one.created,
        _text(one.image),
        _text(one.labels or ""),
        one.key,
    ]


def _sizes(one: SessionObject, grid: Grid) -> tuple[float | None, float | None]:
    """Area in the largest slice in um2, and volume at the time when it is largest in um3."""
    outside = [axis for axis, letter in enumerate(grid.letters) if letter not in "ZYX"]
    pixels: dict[tuple[int | None, ...], int] = {}
    areas = [0.0]
    for plane, mask in one.masks.items():
        area = grid.area_um2(plane, mask.area)
        if area is None:
            return None, None
        areas.append(area)
        when = tuple(plane[axis] for axis in outside)
        pixels[when] = pixels.get(when, 0) + mask.area
    return max(areas), grid.volume_um3(max(pixels.values(), default=0))


def _text(text: str) -> str:
    """What a spreadsheet shows instead of computing it."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _slices(planes: Iterable[PlaneKey]) -> str:
    """Slices as in "3, 7-9"; with more axes those before come first, as in "0/3 0/7-9"."""
    held = sorted({tuple(k for k in plane if k is not None) for plane in planes})
    parts = []
    for before, group in groupby((h for h in held if h), key=lambda h: h[:-1]):
        prefix = "".join(f"{k}/" for k in before)
        parts += [prefix + run for run in number_runs(h[-1] for h in group)]
    return ", ".join(parts)


def _prompts(one: SessionObject) -> dict[str, dict[str, Any]]:
    """What was asked, by slice: "12,:,:" is slice 12 of a stack."""
    asked = {}
    for plane, prompts in one.prompts.items():
        points = np.column_stack([prompts.points, prompts.labels]).tolist()
        values = {
            "text": prompts.text,
            "points_y_x_sign": points,
            "boxes_y0_x0_y1_x1": prompts.boxes.tolist(),
            "mask_pixels": 0 if prompts.mask is None else int((prompts.mask > 0).sum()),
        }
        name = ",".join(":" if k is None else str(k) for k in plane)
        asked[name] = {key: value for key, value in values.items() if value}
    return asked


def _annotation(
    number: int, image: Mapping[str, Any], category: int, mask: ObjectMask
) -> dict[str, Any]:
    y0, x0, y1, x1 = mask.box
    size = [image["height"], image["width"]]
    return {
        "id": number,
        "image_id": image["id"],
        "category_id": category,
        "segmentation": {"size": size, "counts": _run_lengths(mask, *size)},
        "area": mask.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "score": round(float(mask.score), 4),
    }


def _made_with(one: SessionObject) -> dict[str, str]:
    return {"model": one.model, "adapter": one.adapter, "clip": one.clip}


def _run_lengths(mask: ObjectMask, height: int, width: int) -> list[int]:
    """Lengths of runs of 0 and 1 in turn, down the columns of a whole plane, 0 first."""
    columns, rows = np.nonzero(mask.mask.T)
    at = (columns + mask.box[1]) * height + rows + mask.box[0]
    gaps = np.flatnonzero(np.diff(at) != 1)
    starts = at[np.concatenate([[0], gaps + 1])]
    ends = at[np.concatenate([gaps, [len(at) - 1]])] + 1
    edges = np.column_stack([starts, ends]).ravel()
    return np.diff(edges, prepend=0, append=height * width).tolist()


def _regions(plane: NDArray, labels: Sequence[int]) -> Iterable[tuple[int, Any, NDArray[np.bool_]]]:
    """Label, box and mask of each of some labels that a plane shows."""
    rows, cols = np.nonzero(np.isin(plane, labels))
    values = plane[rows, cols]
    order = np.argsort(values, kind="stable")
    found, starts = np.unique(values[order], return_index=True)
    for label, members in zip(found, np.split(order, starts[1:]), strict=False):
        y, x = rows[members], cols[members]
        y0, x0 = int(y.min()), int(x.min())
        mask = np.zeros((int(y.max()) + 1 - y0, int(x.max()) + 1 - x0), bool)
        mask[y - y0, x - x0] = True
        yield int(label), (y0, x0, y0 + mask.shape[0], x0 + mask.shape[1]), mask
