"""The picture of the demo on the page about installing, from what it gives.

python docs/make_demo_picture.py               # writes docs/images/demo.png
python docs/make_demo_picture.py histology     # of this image, or of several below each other

The starter and its adapter decide what it shows; make it again when they change.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from napari_clipsam.cli import main as napari_clipsam

TARGET = Path(__file__).resolve().parent / "images" / "demo.png"
_WIDTH, _COLOURS = 1400, 256
#: Pixels of the demo's sheets above their panels: a title that a page says better.
_TITLE = 33


def join(pictures: Sequence[Path], target: Path) -> None:
    """Put the demo's sheets below each other, small enough for a page.

    Parameters
    ----------
    pictures : sequence of Path
        At least one.
    target : Path
        PNG; replaced.
    """
    rows = []
    for path in pictures:
        with Image.open(path) as sheet:
            row = sheet.crop((0, _TITLE, *sheet.size))
            height = round(row.height * _WIDTH / row.width)
            rows.append(row.resize((_WIDTH, height), Image.Resampling.LANCZOS))
    joined = Image.new("RGB", (_WIDTH, sum(row.height for row in rows)), "white")
    y = 0
    for row in rows:
        joined.paste(row, (0, y))
        y += row.height
    joined.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT).save(target, optimize=True)


def main(names: Sequence[str]) -> int:
    """Run the demo and keep its pictures of `names`."""
    with tempfile.TemporaryDirectory() as folder:
        status = napari_clipsam(["demo", "--no-show", "-o", folder])
        if status == 0:
            join([Path(folder) / f"{name}.png" for name in names], TARGET)
            print(f"{TARGET}: {TARGET.stat().st_size / 1e3:.0f} kB")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["fluorescence"]))
