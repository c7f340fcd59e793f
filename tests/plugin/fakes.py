"""A model that answers at once, and a controller with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel

from napari_clipsam._plugin.chosen import Chosen
from napari_clipsam._plugin.controller import SegmentController
from napari_clipsam._plugin.engine import Ask, Engine, Found, Loaded, Setup, Similar, Tiles
from napari_clipsam._plugin.keeper import Keeper
from napari_clipsam._plugin.runner import SyncRunner
from napari_clipsam._plugin.settings import Settings
from napari_clipsam.errors import ClipSamError
from napari_clipsam.inference.checks import split_boxes
from napari_clipsam.inference.propagation import PropagationStep
from napari_clipsam.inference.requests import ObjectMask, Prediction
from napari_clipsam.inference.stacks import StackStep
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.objects import SessionObject

SIDE = 8
#: Where "every one" finds objects.
CORNERS = ((2, 2), (2, 20), (20, 2))
#: The only plane of an image without depth.
HERE = (None, None)


def square(y: float, x: float, side: int = SIDE, score: float = 0.9) -> ObjectMask:
    y0, x0 = max(0, round(y)), max(0, round(x))
    return ObjectMask((y0, x0, y0 + side, x0 + side), np.ones((side, side), bool), score)


@dataclass
class FakeEngine(Engine):
    """Answers a click with a square around it and a word with squares at `CORNERS`.

    "vacuoles" are never there; a negative click makes the square smaller. With `closer` squares
    that are half as wide take the place of the first, after `between`.
    """

    asked: list[Ask] = field(default_factory=list)
    setups: list[Setup] = field(default_factory=list)
    prepared: list[tuple[Any, ...]] = field(default_factory=list)
    error: ClipSamError | None = None
    on_step: Callable[[], None] = lambda: None
    loaded: Setup | None = None
    closer: bool = False
    between: Callable[[], None] = lambda: None

    def load(self, setup: Setup) -> Iterator[Loaded]:
        if self.error is not None:
            raise self.error
        if setup != self.loaded:
            self.loaded = setup
            self.setups.append(setup)
            yield Loaded(setup, "CPU", ("cells", "nuclei"))

    def answer(self, setup: Setup, ask: Ask) -> Iterator[Loaded | Similar | Found]:
        yield from self.load(setup)
        self.asked.append(ask)
        shape = ask.read(ask.key).shape
        if ask.target != "object":
            yield Similar(ask.key, np.ones((4, 4), np.float32))
        answer = Prediction(shape, ask.target, **_answer(ask, shape))
        yield Found(ask.key, answer, 0.1)
        if self.closer:
            self.between()
            if ask.target != "object":
                yield Tiles(3, 9)
            small = tuple(square(*one.box[:2], SIDE // 2) for one in answer.objects)
            yield Found(ask.key, replace(answer, objects=small), 0.2, True)

    def prepare(
        self, setup: Setup, read: Any, keys: Any, word: str | None, like: Any = None
    ) -> Iterator[Any]:
        self.prepared.append((keys, word, like))
        yield from self.load(setup) if self.error is None else ()
        yield None

    def stack(
        self, setup: Setup, planes: Any, zs: Any, word: str, target: Any, spacing: float
    ) -> Iterator[StackStep]:
        for z in zs:
            shape = planes(z).shape
            masks = [square(y, x) for y, x in CORNERS] if target == "instances" else [square(2, 2)]
            ids = tuple(range(1, len(masks) + 1))
            self.on_step()
            yield StackStep(z, Prediction(shape, target, tuple(masks), text=word), ids)

    def propagate(
        self,
        setup: Setup,
        planes: Any,
        seeds: Any,
        prompts: Any,
        z_range: Any,
        spacing: Any,
        words: Any,
    ) -> Iterator[PropagationStep]:
        self.asked.append((seeds, z_range, spacing))
        zs = range(z_range[0], z_range[1] + 1)
        for key, known in seeds.items():
            for z in zs:
                planes(z)
                seed = known[min(known, key=lambda at: abs(at - z))]
                found = ObjectMask(seed.box, seed.mask, 0.9 - 0.1 * abs(z - min(known)))
                self.on_step()
                yield PropagationStep(key, z, found, 0.9, "", 1, len(zs))

    def replay(
        self, setup: Setup, read: Any, recipes: Any, spacing: Any
    ) -> Iterator[Loaded | SessionObject]:
        yield from self.load(setup)
        for recipe in recipes:
            found = {plane: square(1, 1, score=spacing(0) / 10) for plane in recipe.planes}
            yield replace(recipe.one, label=0, labels=None, masks=found, adapter=setup.adapter)


def _answer(ask: Ask, shape: tuple[int, int]) -> dict[str, Any]:
    if ask.prompts.text == "vacuoles" and ask.target != "object":
        return {"match": False, "presence": 0.12, "threshold": 0.5, "text": "vacuoles"}
    if ask.target == "instances":
        return {"objects": tuple(square(y, x) for y, x in CORNERS), "text": ask.prompts.text}
    if ask.target == "concept":
        return {
            "objects": (square(2, 2, min(16, min(shape) - 2)),),
            "presence": 0.9,
            "text": ask.prompts.text,
        }
    return {"objects": tuple(_one(single) for single in split_boxes(ask.prompts))}


def _one(asked: Prompts) -> ObjectMask:
    if len(asked.boxes):
        y0, x0, y1, _ = asked.boxes[0]
        return square(y0, x0, int(y1 - y0))
    if not len(asked.points):
        rows, cols = np.nonzero(asked.mask > 0)
        return square(rows.min(), cols.min())
    y, x = asked.points[0]
    return square(y - SIDE / 2, x - SIDE / 2, SIDE - 2 * int((asked.labels == 0).sum()))


def make_controller(
    viewer: ViewerModel,
    folder: Path,
    runner: Any = None,
    chosen: Chosen | None = None,
    **settings: Any,
) -> SegmentController:
    runner = runner or SyncRunner()
    preferred = Settings(folder=folder, **settings)
    keeper, engine = Keeper(viewer, folder), FakeEngine(runner.check)
    return SegmentController(viewer, runner, engine, keeper, lambda: preferred, chosen)


def engine(controller: SegmentController) -> FakeEngine:
    assert isinstance(controller.engine, FakeEngine)
    return controller.engine


def click(controller: SegmentController, *position: float, tool: str = "point+") -> None:
    controller.set_tool(tool)
    controller.viewer.layers["cells clicks"].add(position)


def hint(controller: SegmentController) -> str:
    return "" if controller.state.hint is None else controller.state.hint.text


def labels(controller: SegmentController, name: str = "nuclei") -> np.ndarray:
    return np.asarray(controller.viewer.layers[name].data)
