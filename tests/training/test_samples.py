"""Labelled planes to examples, and the part that is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from napari_clipsam.errors import ConfigError, InputError, PlaneError, WordError
from napari_clipsam.planes import Plane, open_image, read_labels
from napari_clipsam.training import picking
from napari_clipsam.training.labelled import LabelledImage, pair_paths, read_index
from napari_clipsam.training.samples import (
    Example,
    check_words,
    examples_from_pairs,
    known_pixels,
    labelled_slices,
    make_split,
)

SHAPE = (40, 60)


def square(y: int = 10, x: int = 10, side: int = 10, number: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint16)
    labels[y : y + side, x : x + side] = number
    return labels


def plane(name: str, index: dict[str, int] | None = None, grey: int = 0) -> Plane:
    """A plane that no other name, number or grey value gives."""
    pixels = np.full(SHAPE, grey, np.uint8)
    pixels[0, 0] = sum(map(ord, name)) % 251
    pixels[0, 1 : 1 + len(index or {})] = [n + 1 for n in (index or {}).values()]
    full = " ".join([name, *(f"{letter}={n}" for letter, n in (index or {}).items())])
    return replace(open_image(pixels).plane(), name=full, index=index or {})


def example(
    where: int | str | Plane, labels: np.ndarray | None = None, **fields: object
) -> Example:
    """An example of a slice of a stack, or of an image."""
    if isinstance(where, int):
        where = plane("stack", {"Z": where})
    elif isinstance(where, str):
        where = plane(where)
    labels = square() if labels is None else labels
    return Example(where, labels, **{"words": ("blobs",), **fields})


def numbers(examples: Sequence[Example]) -> list[int]:
    return [one.plane.index["Z"] for one in examples]


# ---------------------------------------------------------------- which slices are labelled


class Labels:
    """A stack of labels that counts how often a slice is read."""

    def __init__(self, areas: Sequence[int]) -> None:
        self.areas, self.read = areas, []

    def __call__(self, number: int) -> np.ndarray:
        self.read.append(number)
        return (np.arange(400) < self.areas[number]).reshape(20, 20).astype(np.uint8)


def test_slices_are_told_apart_and_read_once_each() -> None:
    labels = Labels([0, 0, 0, 100, 0, 0, 0, 110, 0, 0, 5, 0, 120])
    found = labelled_slices(labels, 13)
    assert (found.labelled, found.partial) == ((3, 7, 12), (10,))
    assert found.used == (3, 7, 10, 12)
    assert found.unlabelled == (0, 1, 2, 4, 5, 6, 8, 9, 11)
    assert found.areas[10] == 5
    assert labels.read == list(range(13))


@pytest.mark.parametrize(
    ("areas", "partial"),
    [
        ([0, 100, 0, 5], ()),  # two labelled slices tell nothing of each other
        ([100, 100, 100, 30], ()),
        ([0, 20, 60, 200, 210, 190, 50, 15, 0], ()),  # a structure that ends at both ends
        ([0, 100, 100, 100, 8, 0], (4,)),  # begun in the next slice
        ([100, 100, 10, 100, 100], (2,)),
        ([100, 100, 0, 24, 0, 100], (3,)),
        ([10, 10, 10], ()),
        ([0, 0, 0], ()),
    ],
)
def test_slices_that_are_partly_labelled(areas: list[int], partial: tuple[int, ...]) -> None:
    found = labelled_slices(Labels(areas), len(areas))
    assert found.partial == partial
    assert set(found.used) == {i for i, area in enumerate(areas) if area}


def test_the_user_knows_better_which_slices_are_labelled() -> None:
    labels = Labels([100, 0, 100, 5, 100])
    assert labelled_slices(labels, 5).partial == (3,)
    labels.read.clear()
    found = labelled_slices(labels, 5, chosen=[4, 3])
    assert (found.labelled, found.partial, found.unlabelled) == ((3, 4), (), (0, 1, 2))
    assert labels.read == [3, 4]
    with pytest.raises(PlaneError, match=r"Slice 1 has no labels\. Paint"):
        labelled_slices(labels, 5, chosen=[1, 2])
    for wrong in (-1, 5):
        with pytest.raises(ConfigError, match=f"no slice {wrong}. Choose from 0 to 4"):
            labelled_slices(labels, 5, chosen=[0, wrong])


@pytest.mark.parametrize(
    "name",
    [
        "mouse_embryo_nuclei_3d/labels/embryo_16_cell_stage.tif",
        "plant_ovule_nuclei_3d/labels/ovule1135_z70-99.tif",
        "vnc_em_organelles/labels/vnc_z00-06_synapses.tif",
    ],
)
def test_real_stacks_are_wholly_labelled_up_to_their_ends(shared: Path, name: str) -> None:
    labels = read_labels(shared / "data" / name)
    found = labelled_slices(labels.plane, len(labels))
    assert found.partial == () and len(found.labelled) >= 7


def test_one_mitochondrion_of_a_real_slice_is_only_some_of_it(shared: Path) -> None:
    path = shared / "data/vnc_em_organelles/labels/vnc_z00-06_mitochondria.tif"
    stack = tifffile.imread(path)
    ids, counts = np.unique(stack[6][stack[6] > 0], return_counts=True)
    stack[6][stack[6] != ids[np.argsort(counts)[len(counts) // 2]]] = 0
    assert labelled_slices(lambda z: stack[z], 7).partial == (6,)


# ---------------------------------------------------------------- what counts where only some is


def test_what_is_near_a_painted_object_counts() -> None:
    labels = square(15, 20, 12)
    known = known_pixels(labels)
    assert known[labels > 0].all()
    radius = 12 / np.sqrt(np.pi)
    rows = np.flatnonzero(known.any(axis=1))
    assert rows[0] == 15 - int(radius) and rows[-1] == 26 + int(radius)
    assert not known[0, 0] and not known[15 - int(radius), 20 - int(radius)]


def test_rings_are_as_wide_as_each_object_and_stay_inside() -> None:
    labels = square(0, 0, 1) + square(20, 40, 20, number=2) + square(0, 57, 3)
    known = known_pixels(labels)
    assert_array_equal(np.flatnonzero(known[0, :20]), [0, 1, 2, 3])
    assert_array_equal(np.flatnonzero(known[0, 30:]), np.arange(24, 30))
    assert known[20 - 11, 50] and not known[20 - 12, 50]
    assert known_pixels(np.zeros((4, 5), int)).sum() == 0
    assert known_pixels(np.ones((4, 5), int)).all()


@given(st.integers(0, 39), st.integers(0, 59), st.integers(1, 40))
def test_rings_fit_wherever_an_object_lies(y: int, x: int, side: int) -> None:
    labels = square(y, x, side)
    known = known_pixels(labels)
    assert known[labels > 0].all()
    assert not known.all() or (labels > 0).mean() > 0.2
    assert_array_equal(known_pixels(labels[::-1])[::-1], known)
    assert_array_equal(known_pixels(labels.T).T, known)


# ---------------------------------------------------------------- words


def test_words_are_tidied() -> None:
    assert check_words(["  cell   membranes ", "Golgi"]) == ("cell membranes", "Golgi")


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        ([], "word is empty"),
        ([""], "word is empty"),
        (["nuclei", " \t"], "word is empty"),
        (["nuclei", "nuclei"], "'nuclei' is given twice"),
        (["red  blood cells", "Red blood Cells"], "'Red blood Cells' is given twice"),
    ],
)
def test_words_that_cannot_be_used(words: list[str], saying: str) -> None:
    with pytest.raises(WordError, match=saying):
        check_words(words)
    with pytest.raises(WordError, match=saying):
        make_split([example(3, words=tuple(words))])


# ---------------------------------------------------------------- what is held out of a stack


@pytest.mark.parametrize(
    ("slices", "share", "held", "tested_on"),
    [
        ([3, 7, 12], 0.2, [12], "slice 12"),
        ([3, 9, 12], 0.2, [3], "slice 3"),
        ([1, 2], 0.2, [2], "slice 2"),
        ([1, 2], 0.9, [2], "slice 2"),
        ([0, 1, 2, 10, 11], 0.4, [10, 11], "slices 10 and 11"),
        ([0, 1, 5, 6, 7, 8, 9, 10], 0.25, [0, 1], "slices 0 and 1"),
        (list(range(20)), 0.2, [16, 17, 18, 19], "slices 16 to 19"),
        ([3, 7, 12], 0.99, [3, 7], "slices 3 and 7"),
        ([0, 4, 9, 11], 0.75, [4, 9, 11], "slices 4, 9 and 11"),
    ],
)
def test_slices_apart_from_the_others_are_held_out(
    slices: list[int], share: float, held: list[int], tested_on: str
) -> None:
    split = make_split([example(z) for z in slices], share)
    assert numbers(split.held_out) == held
    assert numbers(split.train) == [z for z in slices if z not in held]
    assert split.tested_on == tested_on
    assert split.notes == ()


def test_a_slice_that_shows_little_or_only_some_is_not_what_is_measured_on() -> None:
    little = [example(20, square(side=4)), *(example(z) for z in (5, 7, 9))]
    assert numbers(make_split(little).held_out) == [5]
    labels = square()
    some = [*(example(z) for z in (5, 7)), example(20, labels, known=known_pixels(labels))]
    split = make_split(some)
    assert numbers(split.held_out) == [5]
    assert split.notes == (
        "Only some is labelled in slice 20: what is far from any label is left open.",
    )


@given(
    st.lists(st.integers(0, 200), min_size=2, max_size=30, unique=True),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_a_split_of_a_stack_is_one_block_at_an_end(
    slices: list[int], share: float, seed: int
) -> None:
    examples = [example(z) for z in sorted(slices)]
    split = make_split(examples, share, seed)
    held, kept = numbers(split.held_out), numbers(split.train)
    assert sorted(held + kept) == sorted(slices)
    assert len(held) == min(max(1, round(share * len(slices))), len(slices) - 1)
    assert max(held) < min(kept) or min(held) > max(kept)


def test_frames_of_a_time_lapse_are_a_stack_and_depths_stay_together() -> None:
    times = [example(plane("film", {"t": t})) for t in (0, 5, 30)]
    assert make_split(times).tested_on == "slice 30"
    both = [example(plane("film", {"T": t, "Z": z})) for t in (0, 1) for z in (3, 7, 12)]
    split = make_split(both)
    assert [one.plane.index for one in split.held_out] == [{"T": 0, "Z": 12}, {"T": 1, "Z": 12}]
    assert split.tested_on == "slices T=0 and T=1 of Z=12"
    one_time = [example(plane("film", {"T": 4, "Z": z})) for z in (3, 7, 12)]
    assert make_split(one_time).tested_on == "slice 12 of T=4"


# ---------------------------------------------------------------- what is held out of images


def test_images_are_drawn_by_the_seed() -> None:
    examples = [example(f"{letter}.png") for letter in "abcdefghij"]
    draws = {seed: make_split(examples, 0.2, seed).tested_on for seed in range(6)}
    assert all(make_split(examples, 0.2, seed).tested_on == drawn for seed, drawn in draws.items())
    assert len(set(draws.values())) > 3
    assert all(drawn.count(".png") == 2 and " and " in drawn for drawn in draws.values())
    assert make_split(examples, 0.5).tested_on == "5 images"


def test_the_same_plane_is_never_on_both_sides() -> None:
    twice = [example(plane(name, grey=9), words=(word,)) for name in "abcd" for word in "xy"]
    for seed in range(4):
        split = make_split(twice, 0.25, seed)
        held = {one.plane.fingerprint for one in split.held_out}
        assert len(split.held_out) == 2 and len(held) == 1
        assert not held & {one.plane.fingerprint for one in split.train}
    copied = plane("a", grey=9)
    copies = [example(replace(copied, name=name)) for name in ("a", "b")] + [example("c")]
    held = make_split(copies, 0.4).held_out
    assert len(held) in (1, 2) and len({one.plane.fingerprint for one in held}) == 1
    by_hand = make_split(twice, [2])
    assert [one.words for one in by_hand.held_out] == [("x",), ("y",)]


def test_of_several_stacks_whole_ones_are_held_out_where_the_share_allows() -> None:
    examples = [example(plane(name, {"Z": z})) for name in "abcde" for z in range(4)]
    split = make_split(examples, 0.2, seed=1)
    assert len({one.plane.name.split()[0] for one in split.held_out}) == 1
    assert len(split.held_out) == 4
    few = [one for one in examples if one.plane.name[0] in "ab"]
    split = make_split(few, 0.25)
    assert len(split.held_out) == 2 and numbers(split.held_out) == [2, 3]
    assert split.tested_on in ("slices 2 and 3", "a Z=2 and a Z=3", "b Z=2 and b Z=3")


# ---------------------------------------------------------------- what the user holds out


def test_the_user_chooses() -> None:
    examples = [example(z) for z in (3, 7, 12)]
    split = make_split(examples, [1])
    assert numbers(split.held_out) == [7] and split.tested_on == "slice 7"
    assert numbers(make_split(examples, [2, 0]).held_out) == [3, 12]


@pytest.mark.parametrize(
    ("hold_out", "saying"),
    [
        ([3], "index 3. Choose from 0 to 2"),
        ([-1], "index -1"),
        ([], "No slice to test on"),
        ([0, 1, 2], "none is left to learn from"),
        (0.0, "between 0 and 1"),
        (1.0, "between 0 and 1"),
        (float("nan"), "between 0 and 1"),
    ],
)
def test_choices_that_cannot_work(hold_out: float | list[int], saying: str) -> None:
    with pytest.raises(ConfigError, match=saying):
        make_split([example(z) for z in (3, 7, 12)], hold_out)


# ---------------------------------------------------------------- one plane alone


def test_of_one_plane_a_quarter_is_held_out() -> None:
    labels = sum(square(y, x, 8) for y in (5, 25) for x in (5, 45))
    split = make_split([example(3, labels)])
    assert split.tested_on == "a quarter of slice 3"
    (train,), (held,) = split.train, split.held_out
    assert held.known.mean() == 0.25 and held.known[:20, :30].all()
    assert not (train.known & held.known).any()
    assert train.known.mean() == pytest.approx(0.75, abs=0.03)
    margin = ~(train.known | held.known)
    assert margin.any() and margin[:21, :31].sum() == margin.sum()
    assert (held.labels * held.known > 0).sum() * 4 == (labels > 0).sum()


@given(st.integers(0, 36), st.integers(0, 56), st.integers(4, 30))
def test_both_parts_of_one_plane_show_the_structure(y: int, x: int, side: int) -> None:
    split = make_split([example("a.png", square(y, x, side))])
    (train,), (held,) = split.train, split.held_out
    assert not (train.known & held.known).any()
    for part in (train, held):
        assert (part.labels[part.known] > 0).any() and (part.labels[part.known] == 0).any()
    assert split.tested_on in ("a quarter of a.png", "a part of a.png")


def test_one_plane_with_what_is_known_of_it_and_several_words() -> None:
    labels = square(5, 5, 20)
    known = known_pixels(labels)
    split = make_split([example(3, labels, known=known), example(3, labels, words=("others",))])
    assert len(split.train) == len(split.held_out) == 2
    for part in (split.train, split.held_out):
        assert not (part[0].known & ~known).any()
        assert_array_equal(part[0].known, part[1].known & known)
    with pytest.raises(ConfigError, match="none is left to learn from"):
        make_split([example(3, labels)], [0])


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("examples", "saying"),
    [
        ([], "No slice is labelled. Paint"),
        ([example(3, square() * 0)], "no labels in slice 3. Paint"),
        ([example(3, np.ones((40, 61), int))], r"have the shape \(40, 61\), its image \(40, 60\)"),
        ([example(3, square() * 0 + 1)], "covers all of slice 3, .* Erase it"),
        (
            [example("a.png", np.pad([[1, 1, 1]], ((9, 30), (9, 48))))],
            "in a.png have only 3 pixels",
        ),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(examples: list[Example], saying: str) -> None:
    with pytest.raises(PlaneError, match=saying) as caught:
        make_split(examples)
    assert isinstance(caught.value, InputError) and caught.value.exit_code == 2


def test_what_cannot_be_learnt_from_is_left_out_and_said_where_there_is_more() -> None:
    tiny = np.pad([[1, 1, 1]], ((9, 30), (9, 48)))
    examples = [
        example(0, square() * 0 + 1),
        *(example(z) for z in (3, 7, 12)),
        example(14, tiny),
        example(15, tiny),
        example(20, square() * 0),
    ]
    split = make_split(examples)
    assert numbers(split.train) == [3, 7] and numbers(split.held_out) == [12]
    assert split.notes == (
        "Left out: slice 0, where the label covers everything.",
        "Left out: slices 14 and 15, where fewer than 10 pixels are labelled.",
        "Left out: slice 20, where nothing is labelled.",
    )
    with pytest.raises(PlaneError, match="only 3 pixels"):
        make_split(examples, [1, 4])
    assert numbers(make_split(examples, [1]).held_out) == [3]


def test_what_is_to_be_learnt_decides_what_labels_are_needed() -> None:
    dense = np.arange(2400, dtype=np.int32).reshape(SHAPE) // 300 + 1
    examples = [example(z, dense) for z in (1, 2)]
    for goal in (None, "object", "both"):
        assert len(make_split(examples, goal=goal).train) == 1
    with pytest.raises(PlaneError, match="covers all of slice 1"):
        make_split(examples, goal="concept")
    masks = [example(z, objects=False) for z in (1, 2)]
    assert make_split(masks, goal="concept").tested_on == "slice 2"
    for goal in ("object", "both"):
        with pytest.raises(ConfigError, match="one number for all objects"):
            make_split(masks, goal=goal)


# ---------------------------------------------------------------- files


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images whose planes were read, and of all labels that were."""
    read: list[str] = []
    for kind in ("plane", "labels"):
        usual = getattr(picking.LabelledFile, kind)

        def noted(file, number, kind=kind, usual=usual):  # type: ignore[no-untyped-def]
            read.append(f"{kind} {file.pair.image.stem} {number}")
            return usual(file, number)

        monkeypatch.setattr(picking.LabelledFile, kind, noted)
    return read


def write_stack(folder: Path, labels: np.ndarray, name: str = "em") -> LabelledImage:
    images = np.arange(labels.size, dtype=np.int64).reshape(labels.shape) % 251
    paths = folder / f"{name}.tif", folder / f"{name}_labels.tif"
    for path, array in zip(paths, (images.astype(np.uint8), labels), strict=True):
        tifffile.imwrite(path, array, imagej=True, metadata={"axes": "ZYX"})
    return LabelledImage(*paths)


def test_all_labelled_slices_of_a_stack_and_what_is_known_of_them(tmp_path: Path) -> None:
    labels = np.zeros((16, *SHAPE), np.uint16)
    labels[[3, 7, 12]] = square()
    labels[14] = square(side=4)
    told: list[tuple[int, int]] = []
    pairs = [write_stack(tmp_path, labels), write_stack(tmp_path, labels[:2], "empty")]
    found = examples_from_pairs(pairs, [" mito "], progress=lambda *how: told.append(how))
    assert told == [(done, 18) for done in range(1, 19)]
    assert numbers(found) == [3, 7, 12, 14]
    assert [one.known is None for one in found] == [True, True, True, False]
    assert_array_equal(found[3].known, known_pixels(labels[14]))
    assert found[0].words == ("mito",)
    assert_array_equal(found[1].labels, labels[7])
    assert found[0].plane.name == "em.tif Z=3"
    assert make_split(found).tested_on == "slice 3"


def test_shots_of_a_stack_are_spread_over_its_depth(tmp_path: Path, opened: list[str]) -> None:
    labels = np.broadcast_to(square(), (40, *SHAPE)).copy()
    pair = write_stack(tmp_path, labels)
    drawn = {}
    for seed in range(5):
        opened.clear()
        found = examples_from_pairs([pair], ["mito"], shots=4, seed=seed)
        drawn[seed] = numbers(found)
        assert [z // 10 for z in drawn[seed]] == [0, 1, 2, 3]
        assert {int(name.split()[2]) for name in opened} == set(drawn[seed])
        assert numbers(examples_from_pairs([pair], ["mito"], shots=4, seed=seed)) == drawn[seed]
    assert len({tuple(one) for one in drawn.values()}) > 2


def test_shots_are_found_where_few_slices_are_labelled(tmp_path: Path, opened: list[str]) -> None:
    labels = np.zeros((40, *SHAPE), np.uint16)
    labels[[3, 4, 5, 30]] = square()
    labels[8, 0, :3] = 1
    pair = write_stack(tmp_path, labels)
    for seed in range(4):
        opened.clear()
        found = numbers(examples_from_pairs([pair], ["mito"], shots=3, seed=seed))
        assert len(found) == 3 and 30 in found and set(found) < {3, 4, 5, 30}
        assert [name for name in opened if name.startswith("plane")] == [
            f"plane em {z}" for z in found
        ]
    assert numbers(examples_from_pairs([pair], ["mito"], shots=9)) == [3, 4, 5, 30]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Eight images, two of them without anything labelled."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    for k, name in enumerate("abcdefgh"):
        Image.fromarray(np.full(SHAPE, k, np.uint8)).save(images / f"{name}.png")
        mask = square(number=255) * (name not in "be")
        Image.fromarray(mask.astype(np.uint8)).save(labels / f"{name}.png")
    return images, labels


def test_shots_of_a_folder_are_drawn_and_no_other_image_is_read(
    folders: tuple[Path, Path], opened: list[str]
) -> None:
    pairs = pair_paths(*folders)
    draws = set()
    for seed in range(6):
        opened.clear()
        found = examples_from_pairs(pairs, ["blobs"], shots=3, seed=seed)
        names = [one.plane.name for one in found]
        draws.add(tuple(names))
        assert len(names) == 3 and names == sorted(names)
        assert not {"b.png", "e.png"} & set(names)
        assert {f"{name.split()[1]}.png" for name in opened} - set(names) <= {"b.png", "e.png"}
    assert len(draws) > 3
    assert len(examples_from_pairs(pairs, ["blobs"])) == 6
    assert make_split(examples_from_pairs(pairs, ["blobs"], shots=1)).tested_on.startswith("a q")


def test_shots_of_several_stacks_are_shared_out(tmp_path: Path) -> None:
    rich = np.broadcast_to(square(), (6, *SHAPE)).copy()
    poor = rich.copy()
    poor[1:] = 0
    pairs = [write_stack(tmp_path, rich, "a"), write_stack(tmp_path, poor, "b")]
    for seed in range(4):
        found = examples_from_pairs(pairs, ["mito"], shots=4, seed=seed)
        assert [one.plane.name.split()[0] for one in found] == ["a.tif"] * 3 + ["b.tif"]


@pytest.mark.parametrize(
    ("kind", "labels", "objects"),
    [
        ("instance", square(), True),
        ("semantic", square() + square(25, 40, number=2), False),
        ("", square() + square(25, 40), False),
        ("", square() + square(25, 40, number=2), True),
        ("", square(), True),
    ],
)
def test_whether_numbers_tell_objects_apart(
    tmp_path: Path, kind: str, labels: np.ndarray, objects: bool
) -> None:
    pair = write_stack(tmp_path, labels[None])
    found = examples_from_pairs([replace(pair, kind=kind)], ["blobs"])
    assert [one.objects for one in found] == [objects]


def test_masks_of_one_number_are_told_by_all_images_together(tmp_path: Path) -> None:
    one, two = square(), square() + square(25, 40)
    pairs = [write_stack(tmp_path, labels[None], name) for name, labels in (("a", one), ("b", two))]
    assert [e.objects for e in examples_from_pairs(pairs, ["blobs"])] == [False, False]


def test_files_that_do_not_work(tmp_path: Path) -> None:
    pair = write_stack(tmp_path, square()[None])
    tifffile.imwrite(tmp_path / "other.tif", np.ones((1, 9, 9), np.uint8))
    with pytest.raises(PlaneError, match="have different sizes"):
        examples_from_pairs([replace(pair, labels=tmp_path / "other.tif")], ["blobs"])
    with pytest.raises(ConfigError, match="Give 1 or more"):
        examples_from_pairs([pair], ["blobs"], shots=0)
    with pytest.raises(WordError, match="given twice"):
        examples_from_pairs([pair], ["blobs", "Blobs"])


def test_real_slices_with_mitochondria(shared: Path) -> None:
    data = shared / "data" / "vnc_em_organelles"
    pairs = read_index(data, Path("index.csv"), split="train", concept="mitochondria")
    found = examples_from_pairs(pairs, ["mitochondria"], shots=5)
    split = make_split(found, goal="both")
    assert len(split.train) == 4 and len(split.held_out) == 1 and split.notes == ()
    assert all(one.objects and one.known is None for one in found)
    assert split.tested_on in {f"slice {z}" for z in range(7)}
