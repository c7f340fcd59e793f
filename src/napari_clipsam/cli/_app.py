"""Commands, their arguments and options; the work is elsewhere and loaded when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_clipsam.cli._finding import segment, volume
from napari_clipsam.cli._options import (
    AdapterChoice,
    AskedBy,
    Axes,
    Channels,
    Clip,
    Concept,
    Device,
    GoalChoice,
    Images,
    Index,
    Labels,
    Model,
    Overwrite,
    PlaneChoice,
    Precision,
    PrecisionChoice,
    PromptChoice,
    Seed,
    SplitName,
    TargetChoice,
    Where,
)

__all__ = ["app"]

#: Neither boxes nor colours: the output is read by people and programs alike.
_SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,
    "add_completion": False,
    "pretty_exceptions_enable": False,
}

app = typer.Typer(
    help="Segment microscopy images by word, by click and by box.",
    context_settings={"help_option_names": ["-h", "--help"]},
    **_SETTINGS,
)
models_app = typer.Typer(help="List, download, import and remove models.", **_SETTINGS)
adapters_app = typer.Typer(help="List, show, convert and export adapters.", **_SETTINGS)
app.add_typer(models_app, name="models")
app.add_typer(adapters_app, name="adapters")


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"napari-clipsam {version('napari-clipsam')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(segment)
app.command()(volume)


@app.command()
def finetune(
    images: Images,
    labels: Labels = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="ADAPTER", help="Ends in .safetensors."),
    ] = ...,  # type: ignore[assignment]
    text: Annotated[
        list[str],
        typer.Option(metavar="WORD", help="What is labelled; repeat it for words of the same."),
    ] = ...,  # type: ignore[assignment]
    shots: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Labelled planes in all, held-out ones among them."),
    ] = None,
    hold_out: Annotated[
        float, typer.Option(metavar="FRACTION", help="Share of the planes that is tested on.")
    ] = 0.2,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Time to train; left out, 3.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps in place of a time.")
    ] = None,
    target: Annotated[
        GoalChoice, typer.Option(help="All that the word names, single objects, or both.")
    ] = GoalChoice.concept,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ADAPTER|none",
            help="Adapter to go on from; left out, the one that comes with the model.",
        ),
    ] = None,
    prompts: Annotated[
        AskedBy,
        typer.Option(help="How the word is asked later: alone, with clicks, or both."),
    ] = AskedBy.text,
    no_semantics: Annotated[
        bool, typer.Option("--no-semantics", help="Leave CLIP's signals out of the encoder.")
    ] = False,
    model: Model = "starter",
    clip: Clip = None,
    index: Index = None,
    split: SplitName = None,
    where: Where = None,
    concept: Concept = None,
    axes: Axes = None,
    channels: Channels = None,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was cut off or stopped.")
    ] = False,
    curve: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Learning curve; left out, beside the adapter."),
    ] = None,
    no_curve: Annotated[bool, typer.Option("--no-curve", help="No learning curve.")] = False,
) -> None:
    """Teach a word from labelled images: train an adapter, and measure it on some held out.

    Ctrl-C stops and keeps the best so far.
    """
    from napari_clipsam.cli._finetune import FineTuning, run

    run(
        FineTuning(
            images=images,
            labels=labels,
            texts=tuple(text),
            output=output,
            shots=shots,
            seed=seed,
            hold_out=hold_out,
            minutes=minutes,
            steps=steps,
            target=target.value,
            start=start,
            prompts=prompts.value,
            semantics=not no_semantics,
            model=model,
            clip=clip,
            index=index,
            split=split,
            where=tuple(where or ()),
            concept=concept,
            axes=axes,
            channels=channels,
            device=device,
            overwrite=overwrite,
            resume=resume,
            curve=curve,
            no_curve=no_curve,
        )
    )


@app.command()
def evaluate(
    images: Images,
    labels: Labels = None,
    prompts: Annotated[PromptChoice, typer.Option(help="What the model is given.")] = ...,  # type: ignore[assignment]
    text: Annotated[
        str | None, typer.Option(metavar="WORD", help="The word; it conditions clicks and boxes.")
    ] = None,
    target: Annotated[
        TargetChoice | None,
        typer.Option(help="Left out: concept for text, object for point and box."),
    ] = None,
    model: Model = "starter",
    clip: Clip = None,
    adapter: AdapterChoice = None,
    index: Index = None,
    split: SplitName = None,
    where: Where = None,
    concept: Concept = None,
    axes: Axes = None,
    channels: Channels = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All scores, plane by plane.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Picture of best, median and worst planes.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = PrecisionChoice.auto,
    seed: Seed = 0,
) -> None:
    """Measure a model on labelled images.

    point and box: mean IoU over objects of 20 pixels or more. text: mean IoU and Dice over planes,
    or AP50 with --target instances.
    """
    from napari_clipsam.cli._evaluate import Measurement, run

    run(
        Measurement(
            images=images,
            labels=labels,
            prompts=prompts.value,
            text=text,
            target=None if target is None else target.value,
            model=model,
            clip=clip,
            adapter=adapter,
            index=index,
            split=split,
            where=tuple(where or ()),
            concept=concept,
            axes=axes,
            channels=channels,
            json=json,
            sheet=sheet,
            overwrite=overwrite,
            device=device,
            precision=precision.value,
            seed=seed,
        )
    )


@models_app.callback(invoke_without_command=True)
def _models(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        models_list()


@models_app.command("list")
def models_list() -> None:
    """List all models that are known, and which are installed."""
    from napari_clipsam.cli._models import list_models

    list_models()


@models_app.command("download")
def models_download(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the list, or a CLIP of open_clip: ARCH:TAG.")
    ],
) -> None:
    """Download a model into the user's folder, and check it.

    Ctrl-C keeps what has come; the same command goes on from there.
    """
    from napari_clipsam.cli._models import download_model

    download_model(name)


@models_app.command("import")
def models_import(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What to call it; of a CLIP: ARCH:TAG.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .pth, .pt, .safetensors.")],
) -> None:
    """Copy weights you have into the user's folder, to be used by name."""
    from napari_clipsam.cli._models import import_model

    import_model(name, file)


@models_app.command("remove")
def models_remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An installed model.")],
) -> None:
    """Delete the file of an installed model."""
    from napari_clipsam.cli._models import remove_model

    remove_model(name)


@adapters_app.callback(invoke_without_command=True)
def _adapters(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        adapters_list()


@adapters_app.command("list")
def adapters_list() -> None:
    """List the starter's adapter and those in the user's folder."""
    from napari_clipsam.cli._adapters import list_adapters

    list_adapters()


@adapters_app.command("show")
def adapters_show(
    file: Annotated[str, typer.Argument(metavar="NAME|FILE", help="An adapter.")],
) -> None:
    """Show what an adapter was trained for, on what, and how it scored."""
    from napari_clipsam.cli._adapters import show_adapter

    show_adapter(file)


@adapters_app.command("convert")
def adapters_convert(
    released: Annotated[
        Path, typer.Argument(metavar="RELEASED.pth", help="Checkpoint of the paper's code.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="Ends in .safetensors.")
    ],
    overwrite: Overwrite = False,
) -> None:
    """Convert a checkpoint of the paper's code into an adapter, and its SAM and CLIP beside it."""
    from napari_clipsam.cli._adapters import convert_adapter

    convert_adapter(released, output, overwrite)


@adapters_app.command("export")
def adapters_export(
    adapter: Annotated[str, typer.Argument(metavar="NAME|FILE", help="An adapter.")],
    text: Annotated[str, typer.Option(metavar="WORD", help="The word it is to mark.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Ends in .zip.")],
    image: Annotated[
        Path | None,
        typer.Option(metavar="IMAGE", help="Example for the package; else a sample image."),
    ] = None,
    plane: PlaneChoice = None,
    axes: Axes = None,
    channels: Channels = None,
    author: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who made it; repeatable.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="ID", help="SPDX identifier, e.g. CC-BY-4.0.")
    ] = None,
    model: Model = "starter",
    clip: Clip = None,
    overwrite: Overwrite = False,
) -> None:
    """Export one word of an adapter as a model of bioimage.io, which other programs run."""
    from napari_clipsam.cli._adapters import Export, export_adapter

    export_adapter(
        Export(
            adapter=adapter,
            text=text,
            output=output,
            model=model,
            clip=clip,
            image=image,
            plane=plane,
            axes=axes,
            channels=channels,
            authors=tuple(author or ()),
            licence=licence,
            overwrite=overwrite,
        )
    )


@app.command()
def doctor() -> None:
    """Say what is installed, what runs and how fast, and what to mend."""
    from napari_clipsam.cli._doctor import run

    raise typer.Exit(run())


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Made if it is missing.")
    ] = Path("demo_output"),
    show: Annotated[
        bool | None,
        typer.Option("--show/--no-show", help="Open in napari; left out, where there is a screen."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Segment two sample images by word and by click; write the masks and a picture of each."""
    from napari_clipsam.cli._demo import run

    run(output, show, device)
