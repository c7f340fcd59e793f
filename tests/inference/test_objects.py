"""Several objects of one plane, decoded together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.errors import PromptError
from napari_clipsam.geometry import Frame, whole_plane
from napari_clipsam.inference import objects
from napari_clipsam.inference.decoding import ObjectPrompt
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.instances import InstanceSettings
from napari_clipsam.inference.objects import is_cut
from napari_clipsam.inference.requests import ObjectMask, PredictRequest
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.decoder import Decoded
from napari_clipsam.models.refiner import MaskRefiner
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.models.sam import SamConfig
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


@pytest.fixture
def closer(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """One whose SAM gains by looking closer; around the last click it sees a disc of 5 pixels."""
    sam = tiny_sam(stem_widths=(8,) * 5, stem_blocks=(0,) * 5)
    segmenter = Segmenter(LoadedModel("tiny", sam, clip, None), device="cpu")

    def discs(_: Any, prompts: Sequence[ObjectPrompt], frame: Frame) -> Iterator[Decoded]:
        y, x = np.mgrid[:16, :16] * 4 + 1.5
        for prompt in prompts:
            cx, cy = frame.to_model(prompt.points)[-1]
            radius = 2.5 * frame.input_size / max(frame.shape)
            logits = torch.as_tensor(radius - np.hypot(y - cy, x - cx)).expand(1, 3, 16, 16)
            n = 3 if prompt.ambiguous else 1
            yield Decoded(logits[:, :n], torch.tensor([[0.9, 0.8, 0.7]])[:, :n], torch.zeros(1, 1))

    monkeypatch.setattr(segmenter._decoder, "objects", discs)
    return segmenter


def test_a_small_object_is_looked_at_again_in_an_enlarged_part(
    closer: Segmenter, make_plane: MakePlane
) -> None:
    plane, click = make_plane(), Prompts(points=[(20, 30)])
    request = PredictRequest(plane, click)
    first = closer.answer(request, closely=False)
    again = closer.closer(request, first)
    assert again is not None

    assert first.objects[0].frame == whole_plane(plane.shape, 64)
    seen = again.objects[0].frame
    assert seen is not None and seen.shape == (32, 32)
    assert len(again.alternatives) == 2
    assert again.objects[0].box == (18, 28, 23, 33)
    assert first.objects[0].area < again.objects[0].area, "at a cell of 4 pixels it looked small"
    (whole,) = closer.answer_objects(plane, [click])
    assert whole.objects[0].frame == seen, "a script need not ask twice"

    more = Prompts(points=[(20, 30), (21, 31)])
    refined = closer.answer(PredictRequest(plane, more), whole.objects[0])
    assert refined.objects[0].frame == seen, "what is corrected stays where it was found"


def test_specks_do_not_make_an_object_large(closer: Segmenter, make_plane: MakePlane) -> None:
    request = PredictRequest(make_plane(), Prompts(points=[(20, 30)]))
    first = closer.answer(request, closely=False)
    mask = np.zeros((40, 50), bool)
    mask[18:23, 28:33] = mask[0, 0] = mask[39, 49] = True
    speckled = replace(first.objects[0], box=(0, 0, 40, 50), mask=mask)
    again = closer.closer(request, replace(first, objects=(speckled,)))
    assert again is not None and again.objects[0].box == (18, 28, 23, 33)
    mask[10:35, 20:40] = True
    assert closer.closer(request, replace(first, objects=(replace(speckled, mask=mask),))) is None


def test_a_small_mask_prompt_is_looked_at_again_as_it_lies(
    closer: Segmenter, make_plane: MakePlane
) -> None:
    plane = make_plane()
    mask = np.zeros(plane.shape, bool)
    mask[18:23, 28:33] = True
    prompts = Prompts(points=[(20, 30)], mask=mask, boxes=[(18, 28, 23, 33)])
    request = PredictRequest(plane, prompts)
    again = closer.closer(request, closer.answer(request, closely=False))
    assert again is not None and again.objects[0].frame is not None
    assert again.objects[0].frame.shape == (32, 32)
    seen = closer._objects._prompt_in(again.objects[0].frame, prompts).mask
    assert seen is not None and (seen > 0).sum() == 25, "a cell for each pixel"


def test_what_outgrows_its_part_is_looked_at_in_the_whole_plane(
    closer: Segmenter, make_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane, click = make_plane(), Prompts(points=[(20, 30)])
    part = closer.answer(PredictRequest(plane, click)).objects[0]
    monkeypatch.setattr(objects, "is_cut", lambda one, frame, shape: frame == part.frame)
    more = Prompts(points=[(20, 30), (21, 31)])
    grown = closer.answer(PredictRequest(plane, more), part)
    assert grown.objects[0].frame == whole_plane(plane.shape, 64)


def test_a_mask_of_a_part_is_followed_in_frames_that_all_share(
    closer: Segmenter, make_plane: MakePlane
) -> None:
    plane, click = make_plane(), Prompts(points=[(20, 30)])
    part = closer.answer(PredictRequest(plane, click)).objects[0]
    (followed,) = closer.answer_objects(plane, [click], [part], closely=False)
    assert followed.objects[0].frame == whole_plane(plane.shape, 64)


def test_without_memory_for_a_closer_look_the_first_answer_stands(
    closer: Segmenter, make_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane, click = make_plane(), Prompts(points=[(20, 30)])
    embedding = closer._encoder.object_embedding

    def embed(view: View, word: str | None) -> torch.Tensor:
        if view.frame.shape == (32, 32):
            raise torch.OutOfMemoryError("no")
        return embedding(view, word)

    monkeypatch.setattr(closer._encoder, "object_embedding", embed)
    answer = closer.answer(PredictRequest(plane, click))
    assert answer.objects[0].frame == whole_plane(plane.shape, 64)


def test_several_boxes_are_looked_at_again_each_on_its_own(
    closer: Segmenter, make_plane: MakePlane
) -> None:
    centres = Prompts(
        points=[(12, 12), (36, 42), (24, 30)],
        boxes=[(10, 10, 15, 15), (34, 40, 39, 45), (5, 5, 45, 60)],
    )
    request = PredictRequest(make_plane(), centres)
    first = closer.answer(request, closely=False)
    assert {one.frame for one in first.objects} == {whole_plane(request.plane.shape, 64)}
    again = closer.closer(request, first)
    assert again is not None
    frames = [one.frame and one.frame.shape for one in again.objects]
    assert frames == [(32, 32), (32, 32), (48, 64)]
    at_once = closer.answer(request)
    assert [one.box for one in at_once.objects] == [one.box for one in again.objects]


def test_what_would_be_cut_off_keeps_the_first_answer(
    closer: Segmenter, make_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = PredictRequest(make_plane(), Prompts(points=[(20, 30)]))
    first = closer.answer(request, closely=False)
    monkeypatch.setattr(objects, "is_cut", lambda *_: True)
    assert closer.closer(request, first) is None
    assert closer.answer(request).objects[0].frame == first.objects[0].frame


@pytest.mark.parametrize("own_objects", [False, True])
def test_an_adapter_that_decodes_objects_looks_at_the_scale_it_was_taught_at(
    closer: Segmenter, make_plane: MakePlane, own_objects: bool
) -> None:
    config = AdapterConfig(
        n_conditioned=1, own_objects=own_objects, conditioned_objects=own_objects
    )
    adapter = build_adapter(config, closer.model.sam, closer.model.clip, seed=0)
    closer.set_adapter(adapter.with_info(words=("nuclei",)))
    request = PredictRequest(make_plane(), Prompts("nuclei", points=[(20, 30)]))
    again = closer.closer(request, closer.answer(request, closely=False))
    assert (again is None) is own_objects


def test_a_small_box_is_looked_at_from_closer_at_once(
    closer: Segmenter, make_plane: MakePlane
) -> None:
    plane, centre = make_plane(), (23, 23)
    small = Prompts(points=[centre], boxes=[(20, 20, 25, 25)])
    large = Prompts(points=[centre], boxes=[(0, 0, 48, 64)])
    first, second = closer.answer_objects(plane, [small, large])
    assert closer.calls["trunk"] == 2
    assert first.objects[0].frame is not None and first.objects[0].frame.shape == (32, 32)
    assert second.objects[0].frame == whole_plane(plane.shape, 64)
    request = PredictRequest(plane, large)
    assert closer.closer(request, second) is None, "its disc is small, but the box is meant"
    assert closer.closer(PredictRequest(plane, small), first) is None, "once is enough"


def test_sam_itself_looks_once(segmenter: Segmenter, make_plane: MakePlane) -> None:
    request = PredictRequest(make_plane(), Prompts(boxes=[(20, 20, 26, 26)]))
    answer = segmenter.answer(request)
    assert answer.objects[0].frame == whole_plane(request.plane.shape, 64)
    assert segmenter.closer(request, answer) is None
    assert segmenter.ahead.parts_like(request.plane.shape, answer.objects[0]) == []


def test_parts_like_that_of_an_object_are_encoded_ahead(
    closer: Segmenter, make_plane: MakePlane
) -> None:
    plane = make_plane()
    found = closer.answer_objects(plane, [Prompts(points=[(20, 30)])])[0].objects[0]
    parts = closer.ahead.parts_like(plane.shape, found)
    assert parts and found.frame not in parts and {part.shape for part in parts} == {(32, 32)}
    for part in parts:
        closer.ahead.prepare(plane, None, part)
    closer.calls.clear()
    closer.answer_objects(plane, [Prompts(points=[(20, 42)])])
    assert closer.calls["trunk"] == 0
    assert (
        closer.ahead.parts_like(plane.shape, replace(found, frame=whole_plane(plane.shape, 64)))
        == []
    )


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((0, 0, 5, 5), False),
        ((4, 10, 9, 12), True),
        ((5, 10, 9, 12), False),
        ((10, 8, 12, 9), True),
        ((10, 9, 20, 12), True),
        ((10, 9, 12, 24), True),
        ((10, 9, 19, 23), False),
    ],
)
def test_a_mask_that_ends_with_its_part_may_be_cut(box: tuple[int, ...], cut: bool) -> None:
    y0, x0, y1, x1 = box
    one = ObjectMask((y0, x0, y1, x1), np.ones((y1 - y0, x1 - x0), bool), 0.5)
    assert is_cut(one, Frame((4, 8), (16, 16), 64), (40, 40)) is cut
    whole = Frame((0, 0), (40, 40), 64)
    assert not is_cut(one, whole, (40, 40)), "the plane ends there as well"


def test_a_closer_look_at_instances_can_follow_or_be_asked_for_at_once(
    clip: Clip, make_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SamConfig, "least_object", 1000)
    taking_all = InstanceSettings(min_score=0, min_inside=0)
    sam = tiny_sam(stem_widths=(8,) * 5, stem_blocks=(0,) * 5)
    model = LoadedModel("tiny", sam, clip, None)
    segmenter = Segmenter(model, device="cpu", instances=taking_all)
    request = PredictRequest(make_plane(), Prompts("cells"), "instances")
    told: list[tuple[int, int]] = []
    first = segmenter.answer(request, closely=False)
    again = segmenter.closer(request, first, lambda *done: told.append(done))
    assert again is not None and again.text == "cells" and again.seconds["decode"] > 0
    assert told == [(i, len(told)) for i in range(len(told))] and len(told) > 1

    once = segmenter.answer(request)
    np.testing.assert_array_equal(once.labels(), again.labels())
    assert not np.array_equal(first.labels(), again.labels())
    concept = segmenter.answer(PredictRequest(make_plane(), Prompts("cells")), closely=False)
    assert segmenter.closer(request, concept) is None


@pytest.fixture
def refining(clip: Clip) -> Segmenter:
    """One whose SAM brings a refiner."""
    return Segmenter(
        LoadedModel("tiny", tiny_sam(refiner_widths=(8, 16)), clip, None), device="cpu"
    )


def test_a_refiner_redraws_what_the_base_decodes(
    segmenter: Segmenter, refining: Segmenter, make_plane: MakePlane
) -> None:
    # All other weights are the same: a refiner draws its random numbers last.
    plane, box = make_plane(), Prompts(boxes=[(5, 5, 30, 31)])
    usual, redrawn = (
        one.answer_objects(plane, [box])[0].objects[0] for one in (segmenter, refining)
    )
    np.testing.assert_array_equal(usual.logits, redrawn.logits)
    assert redrawn.score != usual.score
    more = Prompts(points=[(8, 9)], boxes=box.boxes)
    (again,) = refining.answer_objects(plane, [more], [redrawn])
    assert again.objects[0].logits is not None, "corrections go on from the decoder's own logits"


def test_a_click_keeps_three_masks_each_with_logits_of_the_decoder(
    segmenter: Segmenter, refining: Segmenter, make_plane: MakePlane
) -> None:
    click = Prompts(points=[(20, 30)])
    usual, redrawn = (one.answer_objects(make_plane(), [click])[0] for one in (segmenter, refining))
    before, after = (
        [one.logits.tobytes() for one in (*found.objects, *found.alternatives)]
        for found in (usual, redrawn)
    )
    assert sorted(before) == sorted(after) and len(set(after)) == 3


def test_what_an_adapter_decodes_is_redrawn_as_well(
    refining: Segmenter, make_plane: MakePlane, clip: Clip
) -> None:
    def scores() -> list[float]:
        found = refining.answer_objects(make_plane(), [Prompts("nuclei", boxes=[(5, 5, 30, 31)])])
        return found[0].scores

    adapter = build_adapter(AdapterConfig(n_conditioned=1), refining.model.sam, clip, seed=0)
    refining.set_adapter(adapter.with_info(words=("nuclei",)))
    by_adapter = scores()
    refiner = refining.model.sam.refiner
    refining.model.sam.refiner = None
    assert scores() != by_adapter
    refining.model.sam.refiner = refiner


def test_what_is_followed_need_not_fill_the_box_of_the_slice_before(
    refining: Segmenter, make_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Prompts] = []

    def draw(
        refine: object, rgb: object, masks: list[ObjectMask], prompts: list[Prompts]
    ) -> list[ObjectMask]:
        asked.extend(prompts)
        return masks

    monkeypatch.setattr(objects, "redraw", draw)
    prompts = [Prompts(points=[(20, 20)], boxes=[(5, 5, 30, 31)])]
    before = refining.answer_objects(make_plane(), prompts)[0].objects
    refining.answer_objects(make_plane(seed=1), prompts, before, closely=False, followed=True)
    corrected, followed = asked
    assert len(corrected.boxes) == 1 and len(followed.boxes) == 0
    np.testing.assert_array_equal(corrected.points, followed.points)


def test_redrawing_can_be_stopped(refining: Segmenter, make_plane: MakePlane) -> None:
    asked: list[int] = []
    refining.check = lambda: asked.append(1)
    box = [Prompts(boxes=[(5, 5, 30, 31)])]
    refining.answer_objects(make_plane(), box)
    with_refiner = len(asked)
    refining.model.sam.refiner = None
    asked.clear()
    refining.answer_objects(make_plane(), box)
    # The second answer has its embedding already.
    assert len(asked) < with_refiner and len(asked) == 1


def test_a_box_that_is_redrawn_needs_no_closer_look(
    closer: Segmenter, make_plane: MakePlane
) -> None:
    plane = make_plane()
    request = PredictRequest(plane, Prompts(points=[(20, 30)], boxes=[(18, 28, 23, 33)]))
    assert closer.answer(request).objects[0].frame != whole_plane(plane.shape, 64)
    closer.model.sam.refiner = MaskRefiner((8, 16)).eval()
    found = closer.answer(request)
    assert found.objects[0].frame == whole_plane(plane.shape, 64)
    assert closer.closer(request, found) is None
