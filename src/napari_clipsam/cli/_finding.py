"""Arguments and options of ``segment`` and ``volume``, which find things in images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_clipsam.cli._options import (
    AdapterChoice,
    Axes,
    Channels,
    Clip,
    Compilation,
    CompilationChoice,
    Device,
    Model,
    Overwrite,
    PlaneChoice,
    Precision,
    PrecisionChoice,
    Seed,
    TargetChoice,
)

__all__ = ["segment", "volume"]

_Words = Annotated[
    list[str] | None,
    typer.Option(metavar="WORD", help="What to look for; several give an output each."),
]
_Target = Annotated[
    TargetChoice | None,
    typer.Option(help="Left out: concept for a word alone, object with a point or box."),
]


def segment(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="TIFF, PNG, JPEG, OME-Zarr, or a folder.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT", help="TIFF, or a folder for many outputs."),
    ],
    text: _Words = None,
    point: Annotated[
        list[str] | None,
        typer.Option(metavar="[Z,]Y,X[,-]", help="A click; ,- for one beside the object."),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="[Z,]Y0,X0,Y1,X1", help="A box, [Y0, Y1) x [X0, X1)."),
    ] = None,
    target: _Target = None,
    model: Model = "starter",
    clip: Clip = None,
    adapter: AdapterChoice = None,
    plane: PlaneChoice = None,
    axes: Axes = None,
    channels: Channels = None,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="Scores, presence and times; a folder with many."),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = PrecisionChoice.auto,
    seed: Seed = 0,
) -> None:
    """Segment one plane of an image, or every image of a folder.

    Concept and object are written as 0 and 1, instances as 1..n. A word that is not found gives an
    empty output.
    """
    from napari_clipsam.cli._segment import Segmentation, run

    run(
        Segmentation(
            image=image,
            output=output,
            texts=tuple(text or ()),
            points=tuple(point or ()),
            boxes=tuple(box or ()),
            target=None if target is None else target.value,
            model=model,
            clip=clip,
            adapter=adapter,
            plane=plane,
            axes=axes,
            channels=channels,
            json=json,
            overwrite=overwrite,
            device=device,
            precision=precision.value,
            seed=seed,
        )
    )


def volume(
    stack: Annotated[Path, typer.Argument(metavar="STACK", help="TIFF, Zarr or OME-Zarr.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="Ends in .ome.zarr or .tif.")
    ],
    text: _Words = None,
    point: Annotated[
        list[str] | None,
        typer.Option(metavar="Z,Y,X[,-]", help="A click; all of them mark one object."),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="Z,Y0,X0,Y1,X1", help="A box; each marks an object of its own."),
    ] = None,
    target: _Target = None,
    propagate: Annotated[
        bool, typer.Option("--propagate", help="Follow marked objects through all slices.")
    ] = False,
    model: Model = "starter",
    clip: Clip = None,
    adapter: AdapterChoice = None,
    axes: Axes = None,
    channels: Channels = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What was found, for programs.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep what other words and adapters can use again."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Share the planes out among N processes here."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Share them out in a dask cluster that runs."),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = PrecisionChoice.auto,
    compilation: Compilation = CompilationChoice.none,
    seed: Seed = 0,
) -> None:
    """Segment a whole stack, slice by slice, however large it is.

    Objects keep one number through all slices. Killed or stopped, the same command goes on where
    it ended.
    """
    from napari_clipsam.cli._volume import VolumeSegmentation, run

    run(
        VolumeSegmentation(
            stack=stack,
            output=output,
            texts=tuple(text or ()),
            points=tuple(point or ()),
            boxes=tuple(box or ()),
            target=None if target is None else target.value,
            propagate=propagate,
            model=model,
            clip=clip,
            adapter=adapter,
            axes=axes,
            channels=channels,
            json=json,
            overwrite=overwrite,
            device=device,
            precision=precision.value,
            compilation=compilation.value,
            seed=seed,
            cache=cache,
            workers=workers,
            scheduler=scheduler,
        )
    )
