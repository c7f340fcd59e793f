"""``napari-clipsam demo``: the main job on two images, by word and by click."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.cli._common import make_segmenter, plural
from napari_clipsam.errors import ConfigError, OutputError
from napari_clipsam.outputs import check_output, replacing, write_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.inference.requests import Prediction
    from napari_clipsam.inference.segmenter import Segmenter

__all__ = ["run"]

_WORD = "nuclei"
_SIDE = 512
#: Share of the image that the picture of a click shows, so that its ring does not hide the object.
_AROUND = 0.25
_RESULTS = ("concept", "instances", "click")


@dataclass(frozen=True, eq=False)
class _Example:
    """An image, where it is clicked on, and in the end what was found."""

    name: str
    image: NDArray
    click: tuple[int, int]

    def files(self, folder: Path) -> dict[str, Path]:
        return {
            **{what: folder / f"{self.name}_{what}.tif" for what in _RESULTS},
            "picture": folder / f"{self.name}.png",
        }


def run(folder: Path, show: bool | None, device: str) -> None:
    """Segment both images and write the results; files of an earlier demo are replaced."""
    if show and not _can_show():
        raise ConfigError(
            "There is no screen or no napari to show the results in. Leave --show out; the "
            "pictures are written in any case."
        )
    examples = list(_examples())
    _check_folder(folder, examples)
    segmenter = make_segmenter("starter", None, None, device, 0)
    _make_folder(folder)
    results = {example.name: _segment(segmenter, example, folder) for example in examples}
    print(f"Everything is in {folder.resolve()}")
    if show or (show is None and _can_show() and _somebody_watches()):
        # torchvision brings in triton, whose LLVM crashes when loaded after that of OpenGL.
        import torchvision  # noqa: F401

        from napari_clipsam._plugin.viewing import show_results

        print("Opening napari. Close its window to end.")
        show_results([(e.name, e.image, e.click, results[e.name]) for e in examples])


def _examples() -> Iterator[_Example]:
    from skimage.data import immunohistochemistry

    from napari_clipsam._plugin.samples import synthetic_nuclei
    from napari_clipsam.training.metrics import innermost_pixel

    yield _Example("histology", immunohistochemistry(), (291, 318))
    image, labels = synthetic_nuclei((512, 512), (0.5, 0.5), n_nuclei=110, seed=7)
    yield _Example("fluorescence", image, innermost_pixel(labels == labels[272, 237]))


def _check_folder(folder: Path, examples: list[_Example]) -> None:
    if folder.is_dir():
        for example in examples:
            for path in example.files(folder).values():
                check_output(path, overwrite=True)
    elif folder.exists():
        raise OutputError(f"{folder} is a file. Give a folder with -o.")
    elif not folder.parent.is_dir():
        raise OutputError(f"The folder {folder.parent} does not exist. Make it, or choose another.")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be made ({error.strerror}). Choose another with -o."
        ) from error


def _segment(segmenter: Segmenter, example: _Example, folder: Path) -> dict[str, NDArray]:
    """Answer word and click on one image, and write masks and picture."""
    from napari_clipsam.planes import open_image
    from napari_clipsam.prompts import Prompts

    plane = open_image(example.image).plane()
    segmenter.set_plane(plane)
    found: dict[str, Prediction] = {
        "concept": segmenter.predict(Prompts(text=_WORD), "concept"),
        "instances": segmenter.predict(Prompts(text=_WORD), "instances"),
        "click": segmenter.predict(Prompts(text=_WORD, points=[example.click]), "object"),
    }
    files = example.files(folder)
    masks = {
        what: answer.labels() if what == "instances" else answer.mask().astype(np.uint8)
        for what, answer in found.items()
    }
    for what, mask in masks.items():
        write_labels(files[what], mask, overwrite=True)
    with replacing(files["picture"], overwrite=True) as part:
        _draw(example, plane.rgb, found, part)
    seconds = sum(sum(answer.seconds.values()) for answer in found.values())
    covered = masks["concept"].mean()
    print(
        f"{example.name}: the word '{_WORD}' covers {covered:.0%} of the image, "
        f"{plural(len(found['instances'].objects), 'instance')}; a click at y={example.click[0]}, "
        f"x={example.click[1]} gives {plural(int(masks['click'].sum()), 'pixel')} ({seconds:.1f} s)"
    )
    for path in files.values():
        print(f"  {path}")
    return masks


def _draw(
    example: _Example, rgb: NDArray[np.uint8], found: dict[str, Prediction], path: Path
) -> None:
    """Image, concept, instances and the clicked object side by side."""
    from napari_clipsam.training.sheet import (
        Panel,
        contact_sheet,
        outlined,
        scaled,
        tinted,
    )

    picture = scaled(rgb, _SIDE)
    concept = scaled(found["concept"].mask(), _SIDE)
    count = len(found["instances"].objects)
    panels = [
        Panel(picture, example.name),
        Panel(outlined(tinted(picture, concept), concept), f"the word '{_WORD}'"),
        Panel(
            tinted(picture, scaled(found["instances"].labels(), _SIDE)),
            f"its instances: {count}",
        ),
        Panel(_clicked(example, rgb, found["click"].mask()), "one click (enlarged)"),
    ]
    sheet = contact_sheet([panels], f"napari-clipsam demo: {example.name}", legend=False)
    sheet.save(path, format="PNG")


def _clicked(
    example: _Example, rgb: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """The surroundings of the click, enlarged, with the object it gave."""
    from napari_clipsam.training.sheet import mark_point, outlined, scaled, tinted

    side = round(_AROUND * min(mask.shape))
    starts = [
        min(max(0, place - side // 2), length - side)
        for place, length in zip(example.click, mask.shape, strict=True)
    ]
    window = tuple(slice(start, start + side) for start in starts)
    shown = scaled(mask[window], _SIDE)
    y, x = (
        _SIDE / side * (place - start + 0.5)
        for place, start in zip(example.click, starts, strict=True)
    )
    return mark_point(outlined(tinted(scaled(rgb[window], _SIDE), shown), shown), y, x)


def _can_show() -> bool:
    """Whether there are a screen and napari."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return screen and all(find_spec(name) is not None for name in ("napari", "qtpy"))


def _somebody_watches() -> bool:
    return sys.stdout.isatty() and not os.environ.get("CI")
