"""Arguments and options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AdapterChoice",
    "AskedBy",
    "Axes",
    "Channels",
    "Clip",
    "Compilation",
    "CompilationChoice",
    "Concept",
    "Device",
    "GoalChoice",
    "Images",
    "Index",
    "Labels",
    "Model",
    "Overwrite",
    "PlaneChoice",
    "Precision",
    "PrecisionChoice",
    "PromptChoice",
    "Seed",
    "SplitName",
    "TargetChoice",
    "Where",
]


class TargetChoice(StrEnum):
    """What is segmented."""

    concept = "concept"
    instances = "instances"
    object = "object"


class GoalChoice(StrEnum):
    """What is learnt."""

    concept = "concept"
    object = "object"
    both = "both"


class PromptChoice(StrEnum):
    """What an evaluation prompts with."""

    text = "text"
    point = "point"
    box = "box"


class PrecisionChoice(StrEnum):
    """What SAM's encoder computes in."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class CompilationChoice(StrEnum):
    """Whether SAM's encoder is compiled."""

    none = "none"
    blocks = "blocks"
    graphs = "graphs"


class AskedBy(StrEnum):
    """What a word is asked with."""

    text = "text"
    clicks = "clicks"
    both = "both"


Model = Annotated[str, typer.Option(metavar="NAME|FILE", help="SAM: a name or a weights file.")]
Clip = Annotated[
    str | None,
    typer.Option(
        metavar="ARCH:TAG|FILE", help="CLIP for a SAM that brings none, e.g. ViT-B-16:openai."
    ),
]
AdapterChoice = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE|none", help="Adapter; left out, the one that comes with the model."
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")]
Precision = Annotated[
    PrecisionChoice, typer.Option(help="auto is half precision where the device is made for it.")
]
Compilation = Annotated[
    CompilationChoice,
    typer.Option(
        "--compile", help="Compile the encoder: a minute the first time, for stacks of many planes."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random choices.")]
Axes = Annotated[
    str | None, typer.Option(metavar="ZYX", help="One letter a dimension, out of T C Z Y X S.")
]
Channels = Annotated[
    str | None, typer.Option(metavar="2|0,1,2", help="One shown grey, or up to three as R, G, B.")
]
PlaneChoice = Annotated[
    str | None, typer.Option(metavar="Z=12[,T=3]", help="Which plane of a stack, from 0.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Images = Annotated[
    Path, typer.Argument(metavar="IMAGES", help="A file, a folder, or a data folder.")
]
Labels = Annotated[
    Path | None,
    typer.Argument(metavar="LABELS", help="As IMAGES; not needed with --index."),
]
Index = Annotated[
    Path | None, typer.Option(metavar="CSV", help="Table that pairs, splits and selects.")
]
SplitName = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="With --index: train, val or test.")
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN=VALUE", help="With --index: only such rows; repeatable."),
]
Concept = Annotated[
    str | None,
    typer.Option(metavar="WORD", help="With --index: labels of this; else of the --text."),
]
