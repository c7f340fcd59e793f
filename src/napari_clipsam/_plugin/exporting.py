"""Labels and objects as files for other programs, written off the main thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_clipsam.errors import OutputError
from napari_clipsam.session.export import (
    Grid,
    as_painted,
    write_coco,
    write_ome_zarr,
    write_table,
    write_tiff,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_clipsam._plugin.keeper import Keeper
    from napari_clipsam._plugin.state import ExportKind

__all__ = ["export_work"]


def export_work(
    keeper: Keeper, kind: ExportKind, path: Path, labels: str
) -> Callable[[], Iterator[None]]:
    """What writes a file; it holds arrays and frozen values, no layers.

    Parameters
    ----------
    labels : str
        The labels layer that is written as TIFF or OME-Zarr; "" for that of the latest object.

    Raises
    ------
    OutputError
        There is nothing to write.
    """
    image, objects = keeper.image, keeper.of_image()
    if image is None or not objects:
        raise OutputError("Nothing of this image is kept. Keep an object first, then export.")
    grid = Grid(image.shape, image.spacing, image.unit, image.reader().labels)
    names = {one.labels for one in objects if one.labels}
    layers = {name: keeper.labels.layer(name) for name in names}
    arrays = {name: layer.data for name, layer in layers.items() if layer is not None}
    chosen = arrays.get(labels or objects[-1].labels or "")

    def work() -> Iterator[None]:
        if kind in ("csv", "coco"):
            shown = as_painted(objects, arrays)
            grids = {one.image: grid for one in shown}
            (write_table if kind == "csv" else write_coco)(path, shown, grids, overwrite=True)
        elif chosen is None:
            raise OutputError("The labels layer is gone. Undo its removal, or keep again.")
        else:
            (write_tiff if kind == "tiff" else write_ome_zarr)(path, chosen, grid, overwrite=True)
        yield None

    return work
