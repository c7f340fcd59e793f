"""Words on planes and in tiles, with networks that know the truth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam.errors import Stopped
from napari_clipsam.geometry import Frame
from napari_clipsam.inference.concepts import ConceptFinder
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.frames import concept_frames
from napari_clipsam.inference.instances import InstanceSettings
from napari_clipsam.inference.requests import Prediction
from napari_clipsam.models.decoder import Decoded
from napari_clipsam.models.refiner import refiner_input
from napari_clipsam.planes import Plane, open_image
from napari_clipsam.prompts import Prompts
from napari_clipsam.semantics import Signals, make_signals

S = 64  # of the input, and of the logits: one pixel each, so that answers are exact


class Oracle:
    """Encoder and decoder in one: its image embedding is the truth.

    Presence is the share of the frame that the concept covers.
    """

    device = torch.device("cpu")
    dtype = torch.float32
    mask_size = S
    least_object = 0
    sees_two_scales = False
    refines = False
    refines_concepts = False

    def __init__(self, truth: np.ndarray, threshold: float | None = None) -> None:
        self.truth = truth
        self.adapter = None
        self.prompts: list[tuple[Tensor, Tensor]] = []
        self.clicks = 0
        self.views: list[View] = []
        if threshold is not None:
            self.adapter = SimpleNamespace(
                config=SimpleNamespace(object_mode=True, map_threshold=0.7, n_points=4),
                info=SimpleNamespace(threshold=threshold),
                presence_logits=lambda token, statistics: torch.logit(token[:, 0]),
            )

    def sees(self, view: View) -> bool:
        return True

    def clear(self) -> None:
        """There is no cache."""

    def concept_frames(self, shape: tuple[int, int]) -> list[Frame]:
        return concept_frames(shape, S)

    def unknown_words(self, word: str) -> list[str]:
        return [word] if word == "gibberish" else []

    def signals(self, view: View, word: str) -> Signals:
        generator = torch.Generator().manual_seed(len(word))
        dense = torch.randn(1, 65, 4, generator=generator)
        h, w = (-(-side // 8) for side in view.frame.resized)
        valid = torch.zeros(1, 8, 8, dtype=torch.bool)
        valid[:, :h, :w] = True
        return make_signals(dense, F.normalize(dense[:, 5], dim=1), valid=valid.flatten(1))

    def resized(self, view: View) -> Tensor:
        return torch.tensor([view.frame.resized])

    def embedding(self, view: View, word: str) -> Tensor:
        crop = torch.zeros(1, 1, S, S)
        self.views.append(view)
        # From afar all is one.
        truth = self.truth if self.sees(view) else self.truth > 0
        part = truth[view.frame.slices]
        times = view.frame.resized[0] // part.shape[0]
        part = part.repeat(times, 0).repeat(times, 1)
        crop[..., : part.shape[0], : part.shape[1]] = torch.tensor(part, dtype=torch.float32)
        return crop

    def object_embedding(self, view: View, word: str) -> Tensor:
        return self.embedding(view, word)

    def run(
        self,
        embedding: Tensor,
        points: Tensor,
        kinds: Tensor,
        mask: Tensor,
        target: str,
        multimask: bool,
    ) -> Decoded:
        assert (target, multimask) == ("concept", False)
        assert set(mask.unique().tolist()) <= ({0, 255} if self.adapter else {-10, 10})
        self.prompts.append((points, kinds))
        logits = torch.where(embedding > 0, 6.0, -6.0)
        share = (embedding > 0).float().mean().clamp(1e-6, 1 - 1e-6)
        return Decoded(logits, torch.full((1, 1), 0.75), share.view(1, 1))

    def points(self, embedding: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
        self.clicks += len(xy)
        x, y = (xy + 0.5).long().unbind(1)
        ids = embedding[0, 0, y, x]
        same = embedding[0] == ids[:, None, None]
        logits = torch.where(same & (ids > 0)[:, None, None], 6.0, -6.0)
        count = 3 if self.refines else 1
        return logits[:, None].expand(-1, count, -1, -1), torch.full((len(xy),), 0.9)


def find(
    truth: np.ndarray,
    target: str = "concept",
    threshold: float | None = None,
    prompts: Prompts | None = None,
    word: str = "nuclei",
    progress: object = None,
) -> tuple[Prediction, Oracle]:
    oracle = Oracle(truth, threshold)
    finder = ConceptFinder(oracle, oracle, InstanceSettings(), seed=0)
    found = finder.find(plane_of(truth), prompts or Prompts(), word, target, progress)
    return found, oracle


def plane_of(truth: np.ndarray) -> Plane:
    return open_image(np.zeros(truth.shape, np.uint8)).plane()


def discs(shape: tuple[int, int], *circles: tuple[float, float, float]) -> np.ndarray:
    yy, xx = np.indices(shape)
    labels = np.zeros(shape, int)
    for number, (y, x, r) in enumerate(circles, 1):
        labels[np.hypot(yy - y, xx - x) <= r] = number
    return labels


def same_objects(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two label maps differ in their numbers alone."""
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(a)) == len(np.unique(b)) and (0, 0) in pairs


WHOLE = discs((64, 50), (10, 10, 6), (40, 20, 9), (30, 40, 7))
# On seams of tiles of 64 with 16 overlap, in corners, alone, and larger than the overlap.
TILED = discs(
    (170, 230), (54, 54, 7), (10, 103, 8), (100, 54, 15), (150, 103, 6), (85, 150, 30), (2, 2, 5)
)


# ---------------------------------------------------------------- concept


@pytest.mark.parametrize(
    "truth", [WHOLE, TILED, np.ones((140, 64), int)], ids=["1", "tiles", "all"]
)
def test_the_concept_is_one_mask(truth: np.ndarray) -> None:
    found, _ = find(truth)

    np.testing.assert_array_equal(found.mask(), truth > 0)
    assert len(found.objects) == 1 and found.match and found.note == ""
    assert found.scores == pytest.approx([0.75])
    assert found.shape == truth.shape and found.target == "concept"


def test_a_whole_planes_concept_can_be_refined_and_a_tiled_one_not() -> None:
    alone, tiled = (find(truth)[0].objects[0] for truth in (WHOLE, TILED))

    assert alone.logits.shape == (S, S) and alone.frame == concept_frames(WHOLE.shape, S)[0]
    assert tiled.logits is None and tiled.frame is None


def test_the_similarity_map_of_tiles_is_not_joined() -> None:
    assert find(WHOLE)[0].similarity.shape == (8, 7)
    assert find(TILED)[0].similarity is None


# ---------------------------------------------------------------- instances


@pytest.mark.parametrize("truth", [WHOLE, TILED], ids=["whole", "tiles"])
def test_instances_are_found_once_and_whole(truth: np.ndarray) -> None:
    found, _ = find(truth, "instances")

    assert same_objects(found.labels(), truth)
    assert len(found.objects) == truth.max() and found.match


def test_instances_of_a_whole_plane_can_be_refined() -> None:
    found, _ = find(WHOLE, "instances")

    assert all(one.logits.shape == (S, S) and one.frame is not None for one in found.objects)


def test_instances_are_looked_for_in_the_plane_alone() -> None:
    # Of the square input a part is padding, which the decoder marks as well.
    truth = np.ones((64, 20), int)
    found, oracle = find(truth, "instances")
    assert found.mask().all() and len(found.objects) == 1
    assert oracle.clicks < 10


class Redrawn(Oracle):
    """With a refiner that draws what it is given, and says what it is worth."""

    refines = True
    worth = 0.7
    grown = 0

    def refine(self, *seen: Tensor) -> tuple[Tensor, Tensor]:
        mask = refiner_input(*seen)[:, 3:4]
        if self.grown:
            mask = F.max_pool2d(mask, 2 * self.grown + 1, 1, self.grown)
        return mask[:, 0] - 0.5, torch.full((len(mask),), self.worth)


def redrawn(truth: np.ndarray, worth: float, grown: int = 0) -> Prediction:
    oracle = Redrawn(truth)
    oracle.worth, oracle.grown = worth, grown
    finder = ConceptFinder(oracle, oracle, InstanceSettings(max_overlap=0.3), seed=0)
    return finder.find(plane_of(truth), Prompts(), "nuclei", "instances")


@pytest.mark.parametrize("truth", [WHOLE, TILED], ids=["whole", "tiles"])
def test_instances_are_redrawn_where_there_is_a_refiner(truth: np.ndarray) -> None:
    found = redrawn(truth, 0.7)

    assert found.scores == pytest.approx([0.7] * truth.max())
    assert ((found.labels() > 0) == (truth > 0)).mean() > 0.99


def test_what_the_refiner_thinks_little_of_is_left_out() -> None:
    found = redrawn(WHOLE, 0.1)
    assert not found.objects and "stands out" in found.note


def test_instances_that_become_one_are_found_once() -> None:
    truth = discs((64, 50), (20, 14, 5), (20, 28, 6))
    assert len(redrawn(truth, 0.7).objects) == 2
    assert len(redrawn(truth, 0.7, grown=24).objects) == 1


class Drawn(Oracle):
    """With a refiner of concepts that draws what is bright."""

    refines_concepts = True

    def refine_concept(self, rgb: Tensor, chance: Tensor, similarity: Tensor) -> Tensor:
        assert chance.shape == similarity.shape == rgb[:, 0].shape
        self.chances = chance
        return rgb[:, 0] - 128


@pytest.mark.parametrize("truth", [WHOLE, TILED], ids=["whole", "tiles"])
def test_a_concept_is_redrawn_where_there_is_a_refiner(truth: np.ndarray) -> None:
    shown = np.where(np.roll(truth, 3, axis=0) > 0, 255, 0).astype(np.uint8)
    oracle = Drawn(truth)
    finder = ConceptFinder(oracle, oracle, InstanceSettings(), seed=0)
    plane = open_image(shown).plane()
    found = finder.find(plane, Prompts(), "nuclei", "concept")
    np.testing.assert_array_equal(found.mask(), shown > 0)
    if truth is WHOLE:
        logits = found.objects[0].logits
        np.testing.assert_array_equal(logits[:64, :50] > 0, truth > 0)
        assert oracle.chances[0, :64, :50].gt(0.5).numpy().sum() == (truth > 0).sum()


def test_a_word_that_is_not_there_is_not_drawn() -> None:
    oracle = Drawn(WHOLE, threshold=0.9)
    finder = ConceptFinder(oracle, oracle, InstanceSettings(), seed=0)
    plane = open_image(np.full(WHOLE.shape, 255, np.uint8)).plane()
    assert not finder.find(plane, Prompts(), "nuclei", "concept").match


# ---------------------------------------------------------------- a closer look

TWINS = discs((64, 50), (20, 16, 5), (20, 27, 5))


class FarSighted(Oracle):
    """Tells objects that touch from each other when they are enlarged."""

    least_object = 30
    sees_two_scales = True

    def sees(self, view: View) -> bool:
        return max(view.frame.shape) < S


def look_twice(
    oracle: Oracle, target: str = "instances", progress: object = None
) -> tuple[Prediction, Prediction | None]:
    finder = ConceptFinder(oracle, oracle, InstanceSettings(), seed=0)
    plane = plane_of(oracle.truth)
    first = finder.find(plane, Prompts(), "nuclei", target)
    return first, finder.closer(plane, Prompts(), first, progress)


def test_small_instances_are_told_apart_from_closer() -> None:
    told: list[tuple[int, int]] = []
    oracle = FarSighted(TWINS, threshold=0.0)
    first, closer = look_twice(oracle, progress=lambda *done: told.append(done))
    assert len(first.objects) == 1
    assert closer is not None and same_objects(closer.labels(), TWINS)
    assert (closer.presence, closer.text) == (first.presence, "nuclei")
    assert told == [(i, 9) for i in range(9)]
    sides = {max(view.frame.shape) for view in oracle.views}
    assert sides == {64, 32}, "twice enlarged is enough"


class Doubtful(FarSighted):
    """From afar it misses the first object and from close the second, neither for sure."""

    def sees(self, view: View) -> bool:
        return True

    def run(self, embedding: Tensor, *rest: object, **more: object) -> Decoded:
        missed = 1 if max(self.views[-1].frame.shape) == S else 2
        found = super().run(embedding, *rest, **more)
        return found._replace(logits=torch.where(embedding == missed, -1.0, found.logits))


def test_a_concept_is_where_two_scales_together_see_it() -> None:
    told: list[tuple[int, int]] = []
    oracle = Doubtful(WHOLE, threshold=0.0)
    first, closer = look_twice(oracle, "concept", progress=lambda *done: told.append(done))
    np.testing.assert_array_equal(first.mask(), WHOLE > 1)
    assert closer is not None
    np.testing.assert_array_equal(closer.mask(), WHOLE > 0)
    assert len(closer.objects) == 1 and closer.scores == first.scores
    assert (closer.presence, closer.text) == (first.presence, "nuclei")
    assert told == [(i, 4) for i in range(4)]


def test_small_instances_are_looked_for_where_two_scales_together_see_the_concept() -> None:
    first, closer = look_twice(Doubtful(WHOLE), "instances")
    assert closer is not None and len(first.objects) == 2
    assert same_objects(closer.labels(), WHOLE)


def test_a_part_has_no_say_in_the_concept_where_one_scale_is_all_there_is() -> None:
    oracle = Doubtful(WHOLE)
    oracle.sees_two_scales = False
    assert look_twice(oracle, "concept")[1] is None
    _, closer = look_twice(oracle, "instances")
    assert closer is not None and same_objects(closer.labels(), np.where(WHOLE > 1, WHOLE, 0))


@pytest.mark.parametrize("target", ["concept", "instances"])
def test_a_closer_look_is_for_what_was_found_in_planes_shown_whole(target: str) -> None:
    assert look_twice(FarSighted(np.zeros_like(TWINS)), target)[1] is None
    assert look_twice(FarSighted(TILED), target)[1] is None
    assert look_twice(Oracle(TWINS), target)[1] is None, "this model does not gain by it"


def test_instances_that_are_redrawn_are_looked_for_again_only_where_they_are_smaller() -> None:
    class Both(FarSighted, Redrawn):
        refines = True

    oracle = Both(TWINS)
    oracle.least_object = 60
    assert look_twice(oracle)[1] is not None
    # The twins look 22 pixels wide together: less than 30, more than 0.625 of it.
    oracle.least_object = 30
    assert look_twice(oracle)[1] is None


def test_large_instances_are_not_looked_for_again() -> None:
    assert look_twice(FarSighted(discs((64, 50), (30, 25, 20))))[1] is None


@pytest.mark.parametrize("target", ["concept", "instances"])
def test_without_memory_the_first_look_is_what_there_is(target: str) -> None:
    class Short(FarSighted):
        def sees(self, view: View) -> bool:
            if super().sees(view):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return False

    assert look_twice(Short(TWINS), target)[1] is None


# ---------------------------------------------------------------- presence


def test_tiles_without_the_concept_answer_nothing() -> None:
    truth = discs((64, 200), (30, 30, 20), (30, 180, 3))
    found, oracle = find(truth, "instances", threshold=0.1)

    # The small one is below the threshold in its own tile.
    assert len(found.objects) == 1 and same_objects(found.labels(), np.where(truth == 1, 1, 0))
    assert found.match and found.threshold == 0.1
    assert found.presence == pytest.approx((truth[:, :64] > 0).sum() / S**2, abs=1e-5)
    assert len(oracle.prompts) == len(concept_frames(truth.shape, S)) > 3


@pytest.mark.parametrize("target", ["concept", "instances"])
@pytest.mark.parametrize("truth", [WHOLE, TILED], ids=["whole", "tiles"])
def test_below_the_threshold_everywhere_is_no_match(truth: np.ndarray, target: str) -> None:
    found, oracle = find(truth, target, threshold=0.99)

    assert not found.match and found.objects == () and oracle.clicks == 0
    assert found.note.startswith("No 'nuclei' found here (best 0.") and "0.99" in found.note


@pytest.mark.parametrize(
    ("target", "note"),
    [("concept", "no pixel was marked"), ("instances", "No single object of 'nuclei'")],
)
def test_nothing_marked_is_no_match(target: str, note: str) -> None:
    for shape in ((64, 50), (170, 100)):
        found, _ = find(np.zeros(shape, int), target)
        assert not found.match and found.objects == () and note in found.note
        assert found.presence is None and found.threshold is None


def test_an_unknown_word_is_not_looked_for() -> None:
    found, oracle = find(TILED, word="gibberish", threshold=0.3)

    assert not found.match and found.presence == 0 and found.threshold == 0.3
    assert "has not learnt 'gibberish'" in found.note and oracle.prompts == []


# ---------------------------------------------------------------- prompts


def test_points_are_drawn_as_the_adapter_says() -> None:
    for threshold, count in ((None, 5), (0.0, 4)):
        _, oracle = find(WHOLE, threshold=threshold)
        ((points, kinds),) = oracle.prompts
        assert kinds.tolist() == [[1] * count + [-1]]
        assert points.shape == (1, count + 1, 2)
        # The plane ends at column 50.
        assert points[..., 0].max() < 50


def test_points_of_the_user_count_in_the_tiles_they_lie_in() -> None:
    frames = concept_frames(TILED.shape, S)
    points = [(55, 55), (169.5, 229.5), (100, 10)]
    _, oracle = find(TILED, prompts=Prompts(points=points, labels=[1, 1, 0]))

    for frame, (xy, kinds) in zip(frames, oracle.prompts, strict=True):
        low = np.array(frame.origin) - 0.5
        inside = [
            bool(((low <= point) & (point <= low + frame.shape)).all())
            for point in np.array(points)
        ]
        positive = [p for p, i in zip(points[:2], inside, strict=False) if i]
        negative = [p for p, i in zip(points[2:], inside[2:], strict=True) if i]
        given = [list(frame.to_model(p)) for p in (*positive, *negative)]
        drawn = 0 if positive else 5
        assert xy[0, drawn:-1].tolist() == [pytest.approx(p) for p in given]
        wanted = [1] * (drawn + len(positive)) + [0] * len(negative) + [-1]
        assert kinds.tolist() == [wanted]


# ---------------------------------------------------------------- progress


def test_progress_is_told_of_tiles() -> None:
    told: list[tuple[int, int]] = []
    find(TILED, progress=lambda done, of: told.append((done, of)))
    find(WHOLE, progress=lambda *_: pytest.fail("one frame needs no progress"))

    count = len(concept_frames(TILED.shape, S))
    assert told == [(i + 1, count) for i in range(count)]


def test_what_progress_raises_ends_the_search() -> None:
    def stop(done: int, of: int) -> None:
        if done == 2:
            raise Stopped("enough")

    with pytest.raises(Stopped, match="enough"):
        find(TILED, progress=stop)
