"""Generated images: the same for the same seed, valid labels, several concepts at once."""

from __future__ import annotations

import numpy as np
import pytest

from starter.phrases import CONCEPTS, MODALITIES
from starter.synthetic import FAMILIES, generate, generate_family, generate_many

SIZE = 128


@pytest.fixture(scope="module")
def samples():
    return [generate_family(family, seed, SIZE) for family in FAMILIES for seed in range(3)]


def test_the_same_seed_gives_the_same_image_and_labels():
    first, again, other = generate(11, SIZE), generate(11, SIZE), generate(12, SIZE)
    assert np.array_equal(first.image, again.image)
    assert first.concepts.keys() == again.concepts.keys()
    for concept, labels in first.concepts.items():
        assert np.array_equal(labels, again.concepts[concept])
    assert not np.array_equal(first.image, other.image)


def test_labels_are_filled_maps_of_ids_without_gaps(samples):
    for sample in samples:
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert sample.image.dtype == np.uint8
        assert sample.concepts.keys() == sample.kinds.keys()
        for concept, labels in sample.concepts.items():
            assert labels.dtype == np.uint16
            assert labels.shape == (SIZE, SIZE)
            ids = np.unique(labels[labels > 0])
            assert ids.tolist() == list(range(1, len(ids) + 1)), (sample.source, concept)
            assert len(ids) >= 1
            if sample.kinds[concept] == "semantic":
                assert len(ids) == 1


def test_words_and_modalities_are_known_and_nothing_is_both_labelled_and_not(samples):
    for sample in samples:
        assert sample.concepts.keys() <= CONCEPTS.keys()
        assert sample.modality in MODALITIES
        assert sample.unlabelled <= CONCEPTS.keys()
        assert not sample.unlabelled & sample.concepts.keys()


def test_every_labelled_structure_can_be_seen(samples):
    for sample in samples:
        for concept, labels in sample.concepts.items():
            inside, outside = sample.image[labels > 0], sample.image[labels == 0]
            difference = np.abs(inside.mean(axis=0) - outside.mean(axis=0)).max()
            spread = np.abs(inside.std(axis=0) - outside.std(axis=0)).max()
            assert max(difference, spread) > 1, (sample.source, concept)


def test_a_nucleus_lies_in_its_own_cell():
    for seed in range(4):
        sample = generate_family("fluorescence_cells", seed, SIZE)
        nuclei, cells = sample.concepts["nuclei"], sample.concepts["cells"]
        assert (cells[nuclei > 0] > 0).all()
        for number in range(1, nuclei.max() + 1):
            assert len(np.unique(cells[nuclei == number])) == 1


def test_half_of_the_images_or_more_hold_two_concepts():
    several = [len(generate(seed, 96).concepts) >= 2 for seed in range(60)]
    assert np.mean(several) >= 0.5


def test_every_concept_is_generated(samples):
    more = [generate_family(family, seed, 96) for family in FAMILIES for seed in range(50, 56)]
    found = {concept for sample in [*samples, *more] for concept in sample.concepts}
    assert found == CONCEPTS.keys()


def test_a_pool_gives_what_one_process_gives():
    pooled = list(generate_many(range(3), 96, workers=2))
    for sample, alone in zip(pooled, generate_many(range(3), 96), strict=True):
        assert sample.source == alone.source
        assert np.array_equal(sample.image, alone.image)
