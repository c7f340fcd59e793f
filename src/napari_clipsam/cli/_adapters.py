"""``napari-clipsam adapters``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_clipsam._machine import size_text
from napari_clipsam.cli._common import make_segmenter, table
from napari_clipsam.errors import AdapterError, OutputError, PlaneError
from napari_clipsam.outputs import check_output

if TYPE_CHECKING:
    from napari_clipsam.adapters.files import AdapterHeader
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane

__all__ = ["Export", "convert_adapter", "export_adapter", "list_adapters", "show_adapter"]

_SHOWN_WORDS = 4


@dataclass(frozen=True, kw_only=True)
class Export:
    """Arguments and options of ``adapters export`` as typed."""

    adapter: str
    text: str
    output: Path
    model: str = "starter"
    clip: str | None = None
    image: Path | None = None
    plane: str | None = None
    axes: str | None = None
    channels: str | None = None
    authors: tuple[str, ...] = ()
    licence: str | None = None
    overwrite: bool = False


def list_adapters() -> None:
    """Print the starter's adapter and the user's own."""
    from napari_clipsam.adapters.files import read_header
    from napari_clipsam.adapters.library import adapters_folder, user_adapters
    from napari_clipsam.models.registry import starter_file

    files = {"starter": starter_file("adapter"), **user_adapters()}
    rows = []
    for name, path in files.items():
        try:
            rows.append(_row(name, read_header(path)))
        except AdapterError:
            rows.append([name, "cannot be read", "-", "-", "-"])
    print(table(["name", "words", "kind", "base", "size"], rows))
    print(f"\nAdapters in {adapters_folder()} are known by name; any other is given as a file.")


def show_adapter(name_or_file: str) -> None:
    """Print what an adapter says of itself."""
    from napari_clipsam.adapters.files import read_header
    from napari_clipsam.adapters.library import find_adapter

    path = find_adapter(name_or_file)
    header = read_header(path)
    info = header.info
    facts: dict[str, Any] = {
        "file": path,
        "size": size_text(header.size),
        "format": header.format_version,
        "words": ", ".join(info.words) or "any",
        "taught words": ", ".join(header.taught) or "none",
        "no match below": "-" if info.threshold is None else f"presence {info.threshold:.3f}",
        "base model": info.base_identity,
        "CLIP": info.clip_identity,
        "parameters": f"{header.n_parameters:,}",
        **_indented("config", header.config.to_json()),
        **_indented("provenance", info.provenance),
        **_indented("scores", info.scores),
    }
    if header.unknown:
        facts["left out"] = f"{', '.join(header.unknown)} (of a newer version)"
    width = max(map(len, facts))
    print("\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items()))


def convert_adapter(released: Path, output: Path, overwrite: bool) -> None:
    """Write the three parts of a checkpoint of the paper's code as files of this program."""
    from napari_clipsam.adapters.files import save_adapter
    from napari_clipsam.adapters.released import load_released
    from napari_clipsam.models.weights import save_clip, save_sam

    if output.suffix != ".safetensors":
        raise OutputError(f"{output} is not the name of an adapter. Let it end in .safetensors.")
    sam_file = output.with_name(f"{output.stem}_sam.safetensors")
    clip_file = output.with_name(f"{output.stem}_clip.safetensors")
    for path in (output, sam_file, clip_file):
        check_output(path, overwrite)
    parts = load_released(released)
    made: list[Path] = [path for path in (output, sam_file, clip_file) if not path.exists()]
    try:
        # Full precision: an adapter belongs to exactly the weights it was trained with.
        save_sam(parts.sam, sam_file, half=False)
        save_clip(parts.clip, clip_file, half=False)
        provenance = {**parts.adapter.info.provenance, "converted_from": released.name}
        parts.adapter.info = replace(parts.adapter.info, provenance=provenance)
        save_adapter(parts.adapter, output, overwrite, half=False)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    for what, path in (("adapter", output), ("SAM", sam_file), ("CLIP", clip_file)):
        print(f"{what}: {path} ({size_text(path.stat().st_size)})")
    print(f"Use them with --model {sam_file} --clip {clip_file} --adapter {output}.")


def export_adapter(options: Export) -> None:
    """Write one word of an adapter as a model package of bioimage.io."""
    from napari_clipsam.exporting.bioimageio import check_before, export_bioimageio
    from napari_clipsam.prompts import Prompts

    word = str(Prompts(text=options.text).text)
    check_before(options.output, options.overwrite)
    if options.adapter == "none":
        raise AdapterError("'none' is no adapter, so there is nothing to export. Name one.")
    given = None if options.image is None else _open(options)
    # What is written must not depend on the machine's other processors.
    segmenter = make_segmenter(options.model, options.clip, options.adapter, "cpu", seed=0)
    example = _sample_of(segmenter, word) if given is None else given
    path = export_bioimageio(
        segmenter,
        word,
        example,
        options.output,
        options.authors,
        options.licence,
        options.overwrite,
    )
    print(f"'{word}' of {segmenter.adapter_name} as a bioimage.io model: {path}")
    print(f"{size_text(path.stat().st_size)}; the example in it gives the same mask as here.")


def _open(options: Export) -> Plane:
    """The user's example."""
    from napari_clipsam.planes import open_image, parse_axes, parse_channels, parse_plane

    stack = open_image(
        options.image,
        None if options.axes is None else parse_axes(options.axes),
        None if options.channels is None else parse_channels(options.channels),
    )
    return stack.plane(parse_plane(options.plane) if options.plane else None)


def _sample_of(segmenter: Segmenter, word: str) -> Plane:
    """The first of the sample images in which the word is found."""
    from napari_clipsam._plugin.samples import histology, nuclei
    from napari_clipsam.planes import open_image

    planes = [open_image(sample()[0][0]).plane() for sample in (nuclei, histology)]
    for plane in planes:
        # Why a word that is not known cannot be exported, is said elsewhere.
        if segmenter.unknown_words(word) or segmenter.first_look(plane, word).match:
            return plane
    raise PlaneError(
        f"'{word}' is in none of the sample images. Give an image that shows it with --image."
    )


def _row(name: str, header: AdapterHeader) -> list[object]:
    words = ", ".join(header.info.words[:_SHOWN_WORDS]) or "any"
    more = len(header.info.words) - _SHOWN_WORDS
    if more > 0:
        words += f" and {more} more"
    return [
        name,
        words,
        header.config.kind,
        header.info.base_identity[:8],
        size_text(header.size),
    ]


def _indented(title: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(_indented(f"{title}.{name}", value))
        else:
            found[f"{title}.{name}"] = f"{value:.4g}" if isinstance(value, float) else value
    return found
