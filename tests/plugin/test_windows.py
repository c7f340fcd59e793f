"""Clicks in planes that are too large to be read whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Image
from plugin.fakes import square

from napari_clipsam._plugin import engine, windows
from napari_clipsam._plugin.engine import Ask, Engine, Found, Setup, Tiles
from napari_clipsam._plugin.layers import open_layer
from napari_clipsam.geometry import Frame
from napari_clipsam.inference.requests import ObjectMask, Prediction, PredictRequest
from napari_clipsam.prompts import Prompts

KEY = (1, None, None)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes above 100 x 100 are large, windows have 64 pixels."""
    for name, value in (("_LARGE", 10_000), ("_SIDE", 64), ("_STEP", 16), ("_ROOM", 8)):
        monkeypatch.setattr(windows, name, value)


@given(
    shape=st.tuples(st.integers(6000, 30_000), st.integers(6000, 30_000)),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_window_holds_the_click_with_room(
    shape: tuple[int, int], at: tuple[float, float]
) -> None:
    point = [(n - 1) * share for n, share in zip(shape, at, strict=True)]
    window = windows.window_for(shape, Prompts(points=[point]), None)
    assert window is not None
    for position, n, start, stop in zip(point, shape, window[:2], window[2:], strict=True):
        assert 0 <= start <= position - 512 or start == 0
        assert position + 512 <= stop <= n or stop == n
        assert stop - start == 4096


def test_what_needs_the_whole_plane_gets_it() -> None:
    huge, click = (20_000, 20_000), Prompts(points=[(5, 5)])
    assert windows.window_for((4000, 4000), click, None) is None
    assert windows.window_for(huge, Prompts("nuclei"), None) is None
    assert windows.window_for(huge, Prompts(points=[(5, 5), (19_000, 5)]), None) is None
    far = ObjectMask((15_000, 0, 15_008, 8), np.ones((8, 8), bool), 0.5)
    assert windows.window_for(huge, click, far) is None


def test_a_mask_moves_into_its_window_and_back_with_its_frame() -> None:
    window, shape = (100, 200, 300, 400), (6000, 6000)
    frame = Frame((10, 20), (64, 64), 64)
    one = ObjectMask((12, 22, 20, 30), np.ones((8, 8), bool), 0.5, np.zeros((16, 16)), frame)
    answer = Prediction((200, 200), "object", (one,), (one,))
    placed = windows.answer_on_plane(answer, window, shape)
    assert placed.shape == shape
    for there in (*placed.objects, *placed.alternatives):
        assert there.frame is not None
        assert (there.box, there.frame.origin) == ((112, 222, 120, 230), (110, 220))
        back = windows.mask_inside(there, window)
        assert (back.box, back.frame, back.logits) == (one.box, one.frame, one.logits)
    empty = ObjectMask((0, 0, 0, 0), np.zeros((0, 0), bool), 0.1)
    assert windows.mask_inside(empty, window).box == (0, 0, 0, 0)


@pytest.mark.parametrize("origin", [(99, 250), (250, 199), (237, 250), (250, 337)])
def test_a_frame_that_another_window_cuts_is_left_behind(origin: tuple[int, int]) -> None:
    frame = Frame(origin, (64, 64), 64)
    one = ObjectMask((250, 250, 258, 258), np.ones((8, 8), bool), 0.5, np.zeros((16, 16)), frame)
    seen = windows.mask_inside(one, (100, 200, 300, 400))
    assert (seen.box, seen.logits, seen.frame) == ((150, 50, 158, 58), None, None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("rgb", [False, True])
def test_a_part_is_read_as_the_whole_would_be(dtype: type, rgb: bool) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 250, (3, 90, 70, *((3,) if rgb else ())), dtype=dtype)
    reader = open_layer(Image(data, rgb=rgb)).reader()
    box = (20, 5, 61, 70)
    part, whole = reader.window(KEY, box), reader(KEY)
    assert np.array_equal(part.rgb, whole.rgb[20:61, 5:70])
    assert part.index == whole.index and part.fingerprint != whole.fingerprint
    assert reader.window(KEY, box) is part, "the next click has it at hand"


@dataclass
class Model:
    """Answers with a square at the first point, and says what it was asked."""

    asked: list[tuple[PredictRequest, Any]] = field(default_factory=list)

    def answer(
        self, request: PredictRequest, previous: Any, progress: Any = None, closely: bool = True
    ) -> Prediction:
        self.asked.append((request, previous))
        if request.target != "object":
            progress(1, 4)
            return Prediction(request.plane.shape, "concept")
        return Prediction(request.plane.shape, "object", (square(*request.prompts.points[0]),))

    def closer(
        self, request: PredictRequest, answer: Prediction, progress: Any = None
    ) -> Prediction | None:
        if request.target != "object":
            return None
        return replace(answer, objects=(square(*request.prompts.points[0], 4),))

    def similarity(self, plane: Any, word: str) -> None:
        return None


class Ready(Engine):
    """An engine whose model is there."""

    def load(self, setup: Setup) -> Iterator[Any]:
        return iter(())


@pytest.mark.usefixtures("small_windows")
def test_only_the_part_around_a_click_is_read() -> None:
    told: list[Tiles] = []
    model = Model()
    working = Ready(lambda: None, told.append)
    working._segmenter = model  # type: ignore[assignment]
    read = open_layer(Image(np.zeros((2, 400, 300), np.uint8))).reader()
    click = Prompts("nuclei", points=[(310, 40)])
    found, closer = working.answer(Setup(), Ask(read, KEY, click, "object"))
    assert isinstance(found, Found) and isinstance(closer, Found)
    assert (found.closer, closer.closer) == (False, True)
    request, _ = model.asked[-1]
    assert request.plane.shape == (64, 64)
    assert found.prediction.shape == (400, 300)
    assert found.prediction.objects[0].box[:2] == (310, 40)
    assert closer.prediction.objects[0].box == (310, 40, 314, 44)

    more = Prompts("nuclei", points=[(310, 40), (315, 45)])
    previous = found.prediction.objects[0]
    (_,) = working.answer(Setup(), Ask(read, KEY, more, "object", previous))
    request, seen = model.asked[-1]
    assert tuple(request.prompts.points[0]) == seen.box[:2], "both count the window's own pixels"

    list(working.answer(Setup(), Ask(read, KEY, Prompts("nuclei"), "concept")))
    assert told == [engine.Tiles(1, 4)]
    assert list(working.prepare(Setup(), read, (KEY,), None, previous)) == [None]
