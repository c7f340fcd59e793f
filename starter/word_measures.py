"""What the report measures of words: whether they are read, and what is absent refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from napari_clipsam import Plane, Prompts, open_image
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.training.metrics import iou
from starter import phrases
from starter.data import TRAINING_SETS, Sample, load_split
from starter.measures import Lab, Row
from starter.synthetic import generate

__all__ = ["auroc", "blood", "presence", "two_words"]

BLOOD = "bccd_blood_boxes"
#: Concepts of the sets for evaluation only that no other set can show.
_ELSEWHERE = ("synapses", "neurites")
_TERMS = 4
#: Seeds far from those that are trained on.
_FIRST_SEED = 10_000_000
_PAIRED_IMAGES = 60
#: Structures that cover each other cannot be told apart by an overlap with the other.
_MOST_SHARED = 0.05


def presence(lab: Lab) -> list[Row]:
    """Words that are there and words that are not, on the test images of all training sets."""
    rng = np.random.default_rng(0)
    there: dict[str, list[tuple[float, bool]]] = {}
    missing: dict[str, list[tuple[float, bool]]] = {"concepts": [], "unseen": []}
    for sample, plane in _test_samples(lab):
        for word in sample.kinds:
            there.setdefault(word, []).append(_presence(lab, plane, word))
        for kind, words in absent_words(sample, rng).items():
            missing[kind] += [_presence(lab, plane, word) for word in words]
    found = [answer for answers in there.values() for answer in answers]
    refused = [*missing["concepts"], *missing["unseen"]]
    rows = [_share("a word that is there is found", "all", found, True, 0.95)]
    rows += [_share("... found", word, there[word], True) for word in sorted(there)]
    rows.append(_share("a word that is not there is refused", "all", refused, False, 0.95))
    rows += [
        _share("... refused, concepts of other images", "all", missing["concepts"], False),
        _share("... refused, terms never seen", "all", missing["unseen"], False),
        _auroc("presence, AUROC", "all words", found, refused),
        _auroc("presence, AUROC", "concepts of other images", found, missing["concepts"]),
    ]
    return rows


def absent_words(sample: Sample, rng: np.random.Generator) -> dict[str, list[str]]:
    """Words that nothing in an image answers to: other sets' concepts, and terms never seen."""
    kinds = list(sample.kinds)
    concepts = phrases.absent_concepts(kinds, sample.unlabelled)
    terms = phrases.absent_terms(kinds, sample.unlabelled, "eval", sample.modality)
    chosen = rng.choice(terms, min(_TERMS, len(terms)), replace=False)
    return {"concepts": [*concepts, *_ELSEWHERE], "unseen": [str(term) for term in chosen]}


def two_words(lab: Lab) -> list[Row]:
    """Generated images of two or more structures: each word finds its own and leaves the others."""
    own: dict[str, list[float]] = {}
    others: dict[str, list[float]] = {}
    for sample in _paired(lab.limit or _PAIRED_IMAGES):
        lab.segmenter.set_plane(sample.image)
        masks = {word: labels > 0 for word, labels in sample.concepts.items()}
        answers = {word: lab.segmenter.predict(Prompts(word)).mask() for word in masks}
        for word, other in _apart(masks):
            own.setdefault(word, []).append(iou(answers[word], masks[word]))
            others.setdefault(word, []).append(iou(answers[word], masks[other]))
    rows = []
    for what, values, target, most in (
        ("own structure, IoU", own, 0.80, False),
        ("other structure, IoU", others, 0.10, True),
    ):
        every = [value for of_word in values.values() for value in of_word]
        rows.append(Row(what, "generated pairs", _mean(every), target, most, len(every)))
        rows += [
            Row(f"... {what}", word, _mean(values[word]), count=len(values[word]))
            for word in sorted(values)
        ]
    return rows


def blood(lab: Lab) -> list[Row]:
    """Three words on one blood smear: predicted centres inside that word's boxes."""
    inside: dict[str, list[bool]] = {}
    reached: dict[str, list[bool]] = {}
    words = ("white blood cells", "platelets", "red blood cells")
    for sample, plane in _test_samples(lab, (BLOOD,)):
        lab.segmenter.set_plane(plane)
        for word in words:
            boxes = sample.boxes.get(word, np.zeros((0, 4)))
            found = lab.segmenter.predict(Prompts(word), "instances").objects
            hits = _hits(found, boxes)
            inside.setdefault(word, []).extend(hits.any(axis=1).tolist())
            reached.setdefault(word, []).extend(hits.any(axis=0).tolist())
    rows = []
    for word in words:
        # Red cells are often not marked, so an unmarked one is no mistake.
        complete = word != "red blood cells"
        precision, recall = (0.90, None) if complete else (None, 0.90)
        rows += [
            Row(f"'{word}', {what}", BLOOD, _mean(hit[word]), target, count=len(hit[word]))
            for what, hit, target in (
                ("precision of centres", inside, precision),
                ("recall of boxes", reached, recall),
            )
        ]
    return rows


def auroc(high: list[float], low: list[float]) -> float:
    """Chance that a value of the first list is above one of the second; ties count half."""
    apart = np.array(high)[:, None] - np.array(low)[None]
    return float((apart > 0).mean() + 0.5 * (apart == 0).mean())


def _test_samples(
    lab: Lab, names: tuple[str, ...] = TRAINING_SETS
) -> Iterator[tuple[Sample, Plane]]:
    """Test images with what is known of them, and as the product reads them."""
    for name in names:
        for sample in lab.spread(load_split(lab.data, (name,), "test")):
            # The source is set / style / path within the set.
            path = lab.data / name / sample.source.split("/", 2)[2]
            yield sample, open_image(path).plane()


def _presence(lab: Lab, plane: Plane, word: str) -> tuple[float, bool]:
    # Presence is told from the whole plane.
    answer = lab.segmenter.first_look(plane, word)
    return answer.presence or 0.0, answer.match


def _share(
    what: str, on: str, answers: list[tuple[float, bool]], match: bool, target: float | None = None
) -> Row:
    right = [answer[1] == match for answer in answers]
    return Row(what, on, _mean(right), target, count=len(right))


def _auroc(
    what: str, on: str, found: list[tuple[float, bool]], refused: list[tuple[float, bool]]
) -> Row:
    value = auroc([p for p, _ in found], [p for p, _ in refused]) if found and refused else None
    return Row(what, on, value, count=len(found) + len(refused))


def _paired(wanted: int) -> Iterator[Sample]:
    """Generated images, never trained on, that show at least two structures apart."""
    seed, given = _FIRST_SEED, 0
    while given < wanted:
        sample = generate(seed)
        seed += 1
        if any(True for _ in _apart({w: m > 0 for w, m in sample.concepts.items()})):
            given += 1
            yield sample


def _apart(masks: dict[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """Pairs of words whose true masks hardly overlap."""
    for word, other in permutations(masks, 2):
        if iou(masks[word], masks[other]) <= _MOST_SHARED:
            yield word, other


def _hits(found: tuple[ObjectMask, ...], boxes: np.ndarray) -> np.ndarray:
    """Whether the centre of mass of each object is in each half-open box, (objects, boxes)."""
    centres = np.zeros((0, 1, 2))
    if found:
        rows = [np.argwhere(one.mask).mean(axis=0) + one.box[:2] for one in found if one.area]
        centres = np.array(rows).reshape(-1, 1, 2)
    return ((centres >= boxes[None, :, :2]) & (centres < boxes[None, :, 2:])).all(axis=2)


def _mean(values: list) -> float | None:
    return float(np.mean(values)) if values else None
