"""A process that trains until it is killed, its state saved after every step, and tells of each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from lessons import split, tiny_model

from napari_clipsam.training import trainer
from napari_clipsam.training.events import TrainEvent
from napari_clipsam.training.settings import FitSettings

#: With CLIP's attention, so that both parts of a run are long enough to be killed in.
SETTINGS = FitSettings(minutes=None, steps=14, rate=3e-2, views=1, clip_tuning="lora")


def run(state: Path, resume: bool = False) -> Iterator[TrainEvent]:
    """The run, the same in any process."""
    return trainer.fit(tiny_model(), split(), SETTINGS, checkpoint=state, resume=resume)


def main(state: str) -> None:
    """Train once a line comes, and stay until killed."""
    trainer._SAVE_SECONDS = trainer._TELL_SECONDS = 0.0
    sys.stdin.readline()
    for event in run(Path(state)):
        print(event.step, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
