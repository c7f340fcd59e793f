"""Pictures of the docks in napari's themes, at the widths and scales that have to work.

    python docs/screenshots/dock_states.py FOLDER [--scale 1.5] [--only segment-no-match]

needs a display (`xvfb-run -a -s "-screen 0 1280x1024x24"`); without `--scale` it writes all
pictures at 100 %, and runs itself again for 150 %.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library_states import STATES as LIBRARY_STATES
from psygnal import Signal
from teach_states import STATES as TEACH_STATES

from napari_clipsam._plugin.library_state import LibraryState
from napari_clipsam._plugin.state import Choice, DockState, Hint, ObjectRow, Progress
from napari_clipsam._plugin.teach_state import TeachState

if TYPE_CHECKING:
    import napari.viewer

THEMES = ("dark", "light")
WIDTHS = (320, 420)
HEIGHT = 860
LARGE = "1.5"

NO_IMAGE = DockState(
    samples=(
        Choice("nuclei", "fluorescent nuclei"),
        Choice("histology", "stained tissue"),
        Choice("nuclei_stack", "a 3D stack"),
    ),
)
WITH_IMAGE = DockState(
    images=(Choice("cells.tif", "cells.tif"), Choice("overview", "overview")),
    image="cells.tif",
    channels=(Choice("dna", "DNA as grey"), Choice("rgb", "DNA, actin, tubulin as R G B")),
    channel="rgb",
    models=(
        Choice("starter", "Starter (20 MB)"),
        Choice("sam_vit_b", "sam_vit_b (375 MB)", False, "sam_vit_b is not installed."),
    ),
    adapters=(Choice("default", "the model's own"), Choice("none", "none")),
    device="CPU",
    history=("nuclei", "mitochondria"),
    known_words=("nuclei", "cells", "mitochondria", "membranes"),
    label_layers=(Choice("", "a new layer"), Choice("nuclei", "nuclei")),
)
ANSWERED = replace(
    WITH_IMAGE,
    word="nuclei",
    target="instances",
    tool="point+",
    answer="nuclei   score 0.91   214 objects   0.18 s (image 0.12, word 0.01, mask 0.05)",
    can_keep=True,
    can_clear=True,
    undo_text="find nuclei",
    keep_into="nuclei",
)
IN_STACK = replace(
    ANSWERED,
    answer="nuclei   score 0.91   214 objects   0.18 s   slice 12/59",
    z_extent=60,
    z_range=(0, 59),
    estimate="~2 min",
    can_propagate=True,
    objects=tuple(
        ObjectRow(str(label), label, "nuclei", score, slices, size, score < 0.6)
        for label, score, slices, size in (
            (18, 0.55, "11-12", "12.9"),
            (31, 0.58, "3, 7-9", "40.25"),
            (4, 0.81, "0-9", "612.5"),
            (22, 0.9, "20-31", "77.5"),
            (17, 0.97, "10-14", "83.2"),
            (2, 0.98, "10-14", "1183"),
        )
    ),
    selected="17",
    size_title="volume/µm³",
)

SEGMENT_STATES: dict[str, DockState] = {
    "no-image": NO_IMAGE,
    "image": WITH_IMAGE,
    "searching": replace(
        WITH_IMAGE, word="nuclei", busy=Progress("Looking for nuclei", can_stop=True)
    ),
    "answer": ANSWERED,
    "no-match": replace(
        WITH_IMAGE,
        word="vacuoles",
        tool="point-",
        hint=Hint(
            "No 'vacuoles' found here (best 0.12). Click one to show me, or teach the word.",
            (("click-one", "Click one"), ("teach", "Teach the word")),
        ),
        answer="vacuoles   nothing found   presence 0.12   0.18 s",
    ),
    "stack": replace(
        IN_STACK, busy=Progress("slice 22/60, 1 min left", done=22, total=60), estimate="~2 min"
    ),
    "objects": IN_STACK,
    "error": replace(
        ANSWERED,
        hint=Hint(
            "cells.tif shows a volume. Segmenting needs a slice: go back to the 2D view.",
            (("show-slices", "Show slices"),),
            is_error=True,
            details="PlaneError: ndisplay 3",
        ),
    ),
}

#: All states by dock and name.
STATES: dict[str, Any] = {
    **{f"segment-{name}": state for name, state in SEGMENT_STATES.items()},
    **{f"teach-{name}": state for name, state in TEACH_STATES.items()},
    **{f"library-{name}": state for name, state in LIBRARY_STATES.items()},
}


class Still:
    """Controls of a dock that shows one state and does nothing."""

    changed = Signal(object)

    def __init__(self, state: Any) -> None:
        self.state = state

    def __getattr__(self, name: str):
        return lambda *args: None


def settle(milliseconds: int = 0) -> None:
    """Let Qt draw, and wait for what is shown after a while."""
    from qtpy.QtTest import QTest

    QTest.qWait(milliseconds)


def save(viewer: napari.viewer.Viewer, state: Any, width: int, path: Path) -> None:
    """Write one picture of a dock in napari's window."""
    from napari_clipsam._plugin._qt.annotate import SegmentDock
    from napari_clipsam._plugin._qt.finetune import TeachDock
    from napari_clipsam._plugin._qt.library import LibraryDock

    docks = {DockState: SegmentDock, TeachState: TeachDock, LibraryState: LibraryDock}
    dock = docks[type(state)](viewer, Still(state))
    frame = viewer.window.add_dock_widget(dock, name="CLIP-Guided SAM", area="right")
    frame.setFloating(True)
    frame.resize(width, HEIGHT)
    frame.activateWindow()
    settle(700 if state.busy or getattr(state, "learning", None) else 100)
    frame.grab().save(str(path))
    viewer.window.remove_dock_widget(frame)


def main() -> None:
    """Write the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", default="", help="of the screen, 1.5 for 150 %%; else both")
    parser.add_argument("--only", default="", help="states whose name begins so, e.g. teach")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if not asked.scale:
        for scale in ("1", LARGE):
            command = [sys.executable, *sys.argv, "--scale", scale]
            subprocess.run(command, check=True)
        return
    os.environ["QT_SCALE_FACTOR"] = asked.scale

    import napari
    from napari.settings import get_settings

    get_settings(path=None)  # neither read nor change the user's own
    viewer = napari.Viewer(show=False)
    percent = round(100 * float(asked.scale))
    for theme in THEMES:
        viewer.theme = theme
        for name in [name for name in STATES if name.startswith(asked.only)]:
            for width in WIDTHS:
                path = asked.folder / f"{name}-{theme}-{width}-{percent}.png"
                save(viewer, STATES[name], width, path)
                print(path)
    viewer.close()


if __name__ == "__main__":
    main()
