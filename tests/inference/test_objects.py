"""Several objects of one plane, decoded together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.errors import PromptError
from napari_clipsam.inference.requests import PredictRequest
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

MakePlane = Callable[..., Plane]
CLICK = Prompts("nuclei", points=[(10, 12)])
BOX = Prompts("nuclei", boxes=[(5, 5, 30, 31)])


def test_objects_together_are_as_each_on_its_own(
    segmenter: Segmenter, make_adapter: Callable[..., Adapter], make_plane: MakePlane
) -> None:
    segmenter.set_adapter(make_adapter(words=("nuclei",)))
    plane = make_plane()
    earlier = segmenter.answer(PredictRequest(plane, CLICK)).objects[0]
    prompts = [
        CLICK,
        BOX,
        Prompts("cells", points=[(10, 12)]),
        Prompts("nuclei", points=[(40, 50)]),
        Prompts("nuclei", boxes=[(0, 0, 9, 9), (20, 20, 40, 60)]),
        Prompts("nuclei", points=[(11, 12)]),
    ]
    previous = [None, None, None, None, None, earlier]
    segmenter.calls.clear()
    together = segmenter.answer_objects(plane, prompts, previous)
    assert segmenter.calls["decode"] == 5, "two clicks; three boxes, two at a time; word; mask"

    for one, asked, before in zip(together, prompts, previous, strict=True):
        alone = segmenter.answer(PredictRequest(plane, asked, "object"), before)
        assert (one.text, one.note, one.target) == (alone.text, alone.note, "object")
        assert len(one.alternatives) == len(alone.alternatives)
        for mine, other in zip(
            (*one.objects, *one.alternatives), (*alone.objects, *alone.alternatives), strict=True
        ):
            np.testing.assert_allclose(mine.logits, other.logits, atol=1e-5)
            assert mine.score == pytest.approx(other.score, abs=1e-5)


def test_the_time_of_a_batch_is_shared_out(segmenter: Segmenter, make_plane: MakePlane) -> None:
    answers = segmenter.answer_objects(make_plane(), [BOX, BOX, BOX, BOX])
    shares = [one.seconds["decode"] for one in answers]
    assert len(set(shares)) == 1 and shares[0] > 0


def test_one_that_cannot_be_answered_is_refused_before_any_work(
    segmenter: Segmenter, make_plane: MakePlane
) -> None:
    with pytest.raises(PromptError, match="outside"):
        segmenter.answer_objects(make_plane(), [BOX, Prompts(points=[(500, 5)])])
    assert not segmenter.calls


def test_no_objects_are_no_answers(segmenter: Segmenter, make_plane: MakePlane) -> None:
    assert segmenter.answer_objects(make_plane(), []) == []
