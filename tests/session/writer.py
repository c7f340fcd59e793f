"""A process that records a session until it is killed; it tells of each step once it was done."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import numpy as np
from session.steps import ACTIONS, Driver

from napari_clipsam.session.journal import ImageInfo, Journal

SHAPE = (4, 96, 80)
IMAGE = ImageInfo("cells.tif", SHAPE)


def layers() -> dict[str, np.ndarray]:
    """A labels layer that holds something already, and an empty one."""
    held = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.int32)
    return {"held": held, "empty": np.zeros(SHAPE, np.uint16)}


def step(driver: Driver, seed: int, number: int) -> None:
    """The step of a number, the same in any process."""
    rng = np.random.default_rng((seed, number))
    driver.act(str(rng.choice(ACTIONS)), int(rng.integers(1 << 30)))


def main(folder: str, seed: int) -> None:
    driver = Driver(layers(), Journal.create(Path(folder), IMAGE))
    for number in count():
        step(driver, seed, number)
        print(number + 1, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
