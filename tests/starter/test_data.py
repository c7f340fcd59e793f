"""Reading, packing and naming of the training data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from starter.data import TRAINING_SETS, contiguous, load_split
from starter.pack import load_packed, pack
from starter.phrases import (
    ABSENT,
    CONCEPTS,
    MODALITIES,
    absent_concepts,
    absent_phrases,
    canonical,
    phrase,
    related,
    vocabulary_phrases,
)

COLUMNS = ["file", "label", "split", "style", "concepts", "label_type"]


def write_set(root: Path, name: str, rows: list[dict[str, str]]) -> None:
    folder = root / name
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def small_data(tmp_path):
    """Three tiny sets: a grey image with a gap in its ids, a test image, and boxes."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (12, 16), np.uint8)
    labels = np.zeros((12, 16), np.uint16)
    labels[2:5, 2:5], labels[7:9, 8:14] = 3, 700
    nuclei = {"style": "fluorescence_256x256", "concepts": "nuclei;nucleus"}
    rows = [
        {"file": f"images/{s}.png", "label": f"labels/{s}.png", "split": s} | nuclei
        for s in ("train", "test")
    ]
    write_set(tmp_path, "dsb2018_nuclei", [row | {"label_type": "instance"} for row in rows])
    cells = {"style": "phase_contrast_large_cells", "concepts": "cells", "label_type": "instance"}
    write_set(
        tmp_path,
        "usiigaci_phase_contrast",
        [{"file": "images/train.png", "label": "labels/train.png", "split": "train"} | cells],
    )
    for path in tmp_path.glob("*/images"):
        for split in ("train", "test"):
            Image.fromarray(grey).save(path / f"{split}.png")
            Image.fromarray(labels).save(path.parent / "labels" / f"{split}.png")
    boxes = {"style": "blood smear", "label_type": "boxes", "label": "labels/boxes.csv"}
    write_set(
        tmp_path,
        "bccd_blood_boxes",
        [
            {"file": "images/a.jpg", "split": "train", "concepts": words} | boxes
            for words in ("red blood cells;erythrocytes", "white blood cells;leukocytes")
        ],
    )
    blood = tmp_path / "bccd_blood_boxes"
    Image.fromarray(np.dstack([grey] * 3)).save(blood / "images" / "a.jpg")
    (blood / "labels" / "boxes.csv").write_text(
        "file,concept,x0,y0,x1,y1\n"
        "images/a.jpg,red blood cells,1,2,5,7\n"
        "images/a.jpg,white blood cells,6,0,15,9\n"
        "images/a.jpg,red blood cells,8,3,12,10\n"
    )
    return tmp_path


def test_contiguous_numbers_ids_from_one_in_order():
    assert contiguous(np.array([[0, 9], [4, 9]])).tolist() == [[0, 2], [1, 2]]


def test_a_grey_image_becomes_rgb_and_its_ids_lose_their_gaps(small_data):
    (sample,) = load_split(small_data, ["dsb2018_nuclei"], "train")
    assert sample.image.shape == (12, 16, 3)
    assert (sample.image[..., 0] == sample.image[..., 2]).all()
    assert np.unique(sample.concepts["nuclei"]).tolist() == [0, 1, 2]
    assert sample.concepts["nuclei"][3, 3] == 1
    assert sample.kinds == {"nuclei": "instance"}
    assert "cells" in sample.unlabelled


def test_boxes_come_as_y0_x0_y1_x1_for_each_word(small_data):
    (sample,) = load_split(small_data, ["bccd_blood_boxes"], "train")
    assert sample.boxes["red blood cells"].tolist() == [[2, 1, 7, 5], [3, 8, 10, 12]]
    assert sample.boxes["white blood cells"].tolist() == [[0, 6, 9, 15]]
    assert sample.concepts == {}
    assert sample.kinds == {"red blood cells": "boxes", "white blood cells": "boxes"}
    assert sample.partial == {"red blood cells"}
    assert {"nuclei", "cells", "platelets"} <= sample.unlabelled


def test_packing_keeps_pixels_and_labels_and_leaves_the_test_split_out(small_data, tmp_path):
    sizes = pack(small_data, tmp_path / "packed")
    assert set(sizes) == set(TRAINING_SETS)
    packed = load_packed(tmp_path / "packed", "train")
    for sample, original in zip(packed, load_split(small_data), strict=True):
        assert np.array_equal(sample.image, original.image)
        for concept, labels in original.concepts.items():
            assert np.array_equal(sample.concepts[concept], labels)
        for concept, boxes in original.boxes.items():
            assert np.array_equal(sample.boxes[concept], boxes)
    assert load_packed(tmp_path / "packed", "test") == []
    pack(small_data, tmp_path / "all", test=True)
    assert len(load_packed(tmp_path / "all", "test")) == 1


def test_sets_for_evaluation_are_refused(small_data):
    with pytest.raises(ValueError, match="not for training"):
        load_split(small_data, ["vnc_em_organelles"], "train")


def test_a_missing_set_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="dsb2018_nuclei"):
        load_split(tmp_path, ["dsb2018_nuclei"], "train")


def test_the_measured_sets_have_the_images_their_readme_promises(shared):
    counts = {}
    for name in ("usiigaci_phase_contrast", "bccd_blood_boxes"):
        counts[name] = [len(load_split(shared / "data", [name], s)) for s in ("val", "test")]
    assert counts == {"usiigaci_phase_contrast": [6, 6], "bccd_blood_boxes": [18, 18]}


def test_every_word_of_the_training_indexes_is_a_known_synonym(shared):
    for name in TRAINING_SETS:
        with (shared / "data" / name / "index.csv").open() as file:
            for row in csv.DictReader(file):
                names = {canonical(word) for word in row["concepts"].split(";")}
                assert len(names) == 1


def test_synonyms_name_one_concept_each():
    words = [word.lower() for synonyms in CONCEPTS.values() for word in synonyms]
    assert len(words) == len(set(words))
    assert canonical("DAPI stained nuclei") == canonical("Nucleus") == "nuclei"
    with pytest.raises(KeyError, match="no concept"):
        canonical("unicorns")


def test_absent_concepts_leave_out_what_is_there_related_or_not_labelled():
    for visible in [{"nuclei"}, {"cells"}, {"white blood cells", "platelets"}, set(CONCEPTS)]:
        hidden = {"vesicles", "yeast"}
        absent = set(absent_concepts(visible, hidden))
        forbidden = visible | hidden | {r for concept in visible for r in related(concept)}
        assert not absent & forbidden
        assert absent | forbidden == CONCEPTS.keys() | forbidden
    assert "white blood cells" in absent_concepts({"nuclei"}, set())


def test_absent_phrases_name_nothing_that_is_there():
    rng = np.random.default_rng(0)
    visible, hidden = {"cells", "filaments"}, {"spots"}
    allowed = absent_concepts(visible, hidden)
    ours = [w.lower() for c in CONCEPTS if c not in allowed for w in CONCEPTS[c]]
    concepts_seen = set()
    for text in absent_phrases(visible, hidden, rng, n=300, modality="histology"):
        assert "collagen" not in text and "muscle fibers" not in text
        for word in CONCEPTS:
            concepts_seen |= {word} if any(s in text for s in CONCEPTS[word]) else set()
        assert text.lower() not in ours
    assert set(allowed) <= concepts_seen


def test_words_for_measuring_absence_are_not_learnt():
    train, measured = ({t.lower() for t in ABSENT[split]} for split in ("train", "eval"))
    assert not train & measured
    known = {word.lower() for words in CONCEPTS.values() for word in words}
    assert not (train | measured) & known


def test_the_vocabulary_covers_every_text_that_can_be_drawn():
    rng = np.random.default_rng(0)
    vocabulary = set(vocabulary_phrases())
    for concept in CONCEPTS:
        for modality in [None, *MODALITIES]:
            assert all(phrase(concept, rng, modality) in vocabulary for _ in range(10))
    for split in ABSENT:
        assert set(absent_phrases(set(), set(), rng, n=200, split=split)) <= vocabulary
    assert {"synapses", "neurites"} <= vocabulary
