from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from session.comparing import plain, same_session
from session.steps import ACTIONS, SHAPE, Driver

from napari_clipsam.errors import ClipSamError, JournalError, OutputError
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.session.database import FORMAT
from napari_clipsam.session.history import Change, LabelPatch
from napari_clipsam.session.journal import (
    ImageInfo,
    Journal,
    LayerInfo,
    discard,
    recipes,
    restore,
    unfinished,
)
from napari_clipsam.session.objects import SessionState

IMAGE = ImageInfo("cells.tif", SHAPE, (1.0, 0.5, 0.5), "micrometer")
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2**16)), max_size=25)
#: What the version before recorded in `OLD`, with objects that do not say which CLIP they are of.
OLD = Path(__file__).parent / "data" / "format_1.sqlite"
OLD_STEPS = [*[("draft", 1), ("keep", 2), ("draft", 3), ("keep", 4), ("paint", 5)], ("correct", 7)]
OLD_STEPS += [("undo", 6), ("draft", 8)]
FEW = [("draft", 1), ("keep", 2), ("draft", 3), ("keep", 4), ("paint", 5), ("undo", 6)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with_journal = Journal.create(tmp_path / "project", IMAGE)
    yield with_journal
    with_journal._close()


def layers(kind: str) -> dict[str, np.ndarray]:
    if kind == "empty":
        return {"cells": np.zeros(SHAPE, np.int32)}
    rng = np.random.default_rng(7)
    shape = SHAPE if kind == "held" else SHAPE[1:]
    return {
        "cells": rng.integers(0, 4, shape).astype(np.uint8),
        "nuclei α": rng.integers(0, 2**40, shape).astype(">i8"),
    }


def recorded(journal: Journal, steps: list[tuple[str, int]] = FEW) -> Driver:
    driver = Driver(journal=journal)
    for action, seed in steps:
        driver.act(action, seed)
    return driver


def altered(path: Path, sql: str, *values: object) -> None:
    """Change a closed journal from outside."""
    db = sqlite3.connect(path)
    db.execute(sql, values)
    db.commit()
    db.close()


# ---------------------------------------------------------------- exact


@pytest.mark.parametrize("kind", ["empty", "held", "flat"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, more=STEPS)
def test_any_session_is_restored_as_it_was_and_goes_on(
    kind: str,
    steps: list[tuple[str, int]],
    more: list[tuple[str, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    driver = Driver(layers(kind), Journal.create(folder, IMAGE))
    for action, seed in steps:
        driver.act(action, seed)
    assert driver.journal is not None
    driver.journal.close(finished=False)
    assert same_session(restore(folder), driver)

    # The driver works on with its own objects, the journal with those that it has read.
    driver.journal, restored = Journal.reopen(folder)
    assert same_session(restored, driver)
    for action, seed in more:
        driver.act(action, seed)
    driver.journal.close(finished=True)
    assert same_session(restore(folder), driver)


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def test_a_session_of_the_former_format_is_restored_as_it_was(tmp_path: Path) -> None:
    path = Path(shutil.copy(OLD, tmp_path / "journal.sqlite"))
    driver = Driver(clip="")
    for action, seed in OLD_STEPS:
        driver.act(action, seed)

    assert same_session(restore(path), driver)
    assert path.read_bytes() == OLD.read_bytes() and version_of(path) == 1


def test_a_session_of_the_former_format_goes_on_in_the_new_one(tmp_path: Path) -> None:
    path = Path(shutil.copy(OLD, tmp_path / "journal.sqlite"))
    driver = Driver(clip="")
    for action, seed in OLD_STEPS:
        driver.act(action, seed)
    driver.journal, _ = Journal.reopen(path)
    driver.clip = "ViT-B-16:openai"
    for action, seed in [("draft", 1), ("keep", 12), ("undo", 13), ("redo", 14)]:
        driver.act(action, seed)
    driver.journal.close(finished=True)

    restored = restore(path)
    assert same_session(restored, driver)
    assert {one.clip for one in restored.state.objects.values()} == {"", "ViT-B-16:openai"}
    # A program that knows the former one only says that it has to be updated.
    assert version_of(path) == FORMAT == 2


def test_what_is_restored_can_be_undone_to_the_beginning(journal: Journal) -> None:
    driver = recorded(journal, [*FEW[:4], ("correct", 7), ("delete", 9), ("undo", 0)])
    journal.close(finished=False)
    restored = restore(journal.path)
    assert restored.history.can_redo and plain(restored.state) == plain(driver.state)
    while (change := restored.history.undo()) is not None:
        driver.history.undo()
        state = change.before
        for name, array in driver.labels.layers.items():
            np.testing.assert_array_equal(restored.labels[name], array)
    assert not state.objects and not restored.labels["cells"].any()


def test_work_goes_on_with_what_was_restored(journal: Journal) -> None:
    recorded(journal)
    journal.close(finished=False)
    again, restored = Journal.reopen(journal.path)
    one = restored.state.draft[0] if restored.state.draft else None
    kept = next(iter(restored.state.objects.values()))
    after = restored.state.with_objects([replace(kept, word="new")])
    again.append(Change("rename", restored.state, after))
    count = again._open.execute("SELECT count(*) FROM mask").fetchone()
    again.close(finished=True)
    back = restore(journal.path)
    assert plain(back.state) == plain(after)
    # Masks that were read are not written once more.
    total = {id(m) for o in (*after.objects.values(), *after.draft) for m in o.masks.values()}
    assert one is None or count[0] >= len(total)
    assert count[0] < 2 * len(total) + 4


def test_a_layer_that_begins_anew_is_empty(journal: Journal) -> None:
    driver = recorded(journal, FEW[:2])
    assert driver.labels.layers["cells"].any()
    journal.layer("cells", (5, 6), np.uint8, {})
    journal.append_undo()
    journal.close(finished=False)
    restored = restore(journal.path)
    assert restored.labels["cells"].shape == (5, 6) and not restored.labels["cells"].any()
    assert restored.touched["cells"] == ()


def test_layers_and_images_come_back_with_all_they_were_given(journal: Journal) -> None:
    transform = {"scale": [2.0, 0.5, 0.5], "units": ["micrometer"] * 3, "axis_labels": ["z", "y"]}
    journal.layer("cells", SHAPE, np.uint16, transform)
    journal.image(ImageInfo("other", (4, 4), source="/data/x.tif", fingerprint="ab"))
    journal.close(finished=True)
    restored = restore(journal.path.parent)
    assert restored.layers == {"cells": LayerInfo("cells", SHAPE, np.dtype(np.uint16), transform)}
    assert restored.image_info == IMAGE
    assert restored.images[1].fingerprint == "ab" and restored.images[1].source == "/data/x.tif"


def test_a_large_plane_is_recorded_in_parts(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_clipsam.session.records._TILE", 4)
    plane = np.arange(SHAPE[1] * SHAPE[2], dtype=np.int32).reshape(SHAPE[1:])
    plane[:5] = 0
    journal.layer("cells", SHAPE, np.int32, {})
    journal.base("cells", (1, None, None), plane)
    part = plane[1:, 2:9]
    patch = LabelPatch("cells", (1, None, None), (1, 2, 12, 9), part.copy(), part + 1)
    journal.painted(patch)
    assert journal._open.execute("SELECT count(*) FROM patch").fetchone()[0] > 8
    journal.close(finished=False)
    part += 1
    np.testing.assert_array_equal(restore(journal.path).labels["cells"][1], plane)


def test_arrays_of_the_callers_own_kind_are_filled(journal: Journal) -> None:
    driver = recorded(journal)
    journal.close(finished=False)
    made: list[np.ndarray] = []

    def make(layer: LayerInfo) -> np.ndarray:
        made.append(np.zeros(layer.shape, layer.dtype))
        return made[-1]

    restored = restore(journal.path, make)
    assert restored.labels["cells"] is made[0]
    assert same_session(restored, driver)


# ---------------------------------------------------------------- again, with another model


def test_recipes_hold_all_that_was_asked_and_nothing_that_was_found(journal: Journal) -> None:
    driver = recorded(journal, [*FEW, ("draft", 11)])
    journal.close(finished=True)
    found = list(recipes(journal.path))
    expected = [*driver.state.objects.values(), *driver.state.draft]
    assert expected and len(found) == len(expected)
    for recipe, one in zip(found, expected, strict=True):
        assert not recipe.one.masks
        assert recipe.planes == tuple(one.masks)
        assert plain(recipe.one) == plain(replace(one, masks={}))


# ---------------------------------------------------------------- unfinished


def test_only_sessions_that_were_not_ended_are_offered(tmp_path: Path) -> None:
    for name, steps, finished in (
        ("lost", FEW, False),
        ("ended", FEW, True),
        ("untouched", [], False),
        ("live", FEW, None),
    ):
        one = Journal.create(tmp_path / name, IMAGE)
        driver = recorded(one, steps)
        if name == "lost":
            kept = len(driver.state.objects)
        if finished is not None:
            one.close(finished)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "journal.sqlite").write_bytes(b"not a journal" * 100)
    (lost,) = unfinished(tmp_path)
    assert lost.path == tmp_path / "lost" / "journal.sqlite"
    assert lost.images == (IMAGE,) and lost.objects == kept > 0 and lost.steps > len(FEW)
    assert unfinished(tmp_path / "lost") == [lost]
    assert unfinished(tmp_path / "nowhere") == []
    one.close(finished=True)
    discard(lost.path)
    assert not (tmp_path / "lost").exists() and unfinished(tmp_path) == []


def test_a_session_reopened_and_lost_again_is_offered_again(journal: Journal) -> None:
    recorded(journal)
    journal.close(finished=True)
    assert unfinished(journal.path.parent) == []
    again, _ = Journal.reopen(journal.path)
    again._open.close()  # as a crash does
    again._db = None
    assert len(unfinished(journal.path.parent)) == 1


# ---------------------------------------------------------------- projects


@pytest.mark.parametrize("keep_former", [True, False])
def test_a_project_is_saved_elsewhere_and_goes_on_there(
    journal: Journal, tmp_path: Path, keep_former: bool
) -> None:
    driver = recorded(journal)
    former = journal.path
    before = plain(driver.state)
    journal.save_as(tmp_path / "mine" / "deep", keep_former)
    driver.act("draft", 100)
    assert journal.path == tmp_path / "mine" / "deep" / "journal.sqlite"
    journal.close(finished=True)
    assert os.listdir(journal.path.parent) == ["journal.sqlite"]
    assert same_session(restore(tmp_path / "mine" / "deep"), driver)
    if keep_former:
        assert plain(restore(former).state) == before and unfinished(former.parent) == []
    else:
        assert not former.parent.exists()


def test_a_session_only_in_memory_is_saved_with_all_its_steps(tmp_path: Path) -> None:
    journal = Journal.without_file(IMAGE)
    driver = recorded(journal)
    assert not journal.has_file and not os.listdir(tmp_path)
    journal.save_as(tmp_path, keep_former=False)
    assert journal.has_file
    driver.act("undo", 0)
    driver.act("undo", 0)
    journal.close(finished=True)
    assert same_session(restore(tmp_path), driver)


def test_what_a_full_disk_held_back_is_saved_elsewhere(journal: Journal, tmp_path: Path) -> None:
    driver = recorded(journal)
    journal._open.execute("PRAGMA query_only = ON")
    with pytest.raises(OutputError, match="cannot be recorded"):
        driver.act("paint", 5)
    journal.save_as(tmp_path / "elsewhere", keep_former=True)
    journal.close(finished=True)
    assert same_session(restore(tmp_path / "elsewhere"), driver)


def test_a_folder_holds_one_session(journal: Journal, tmp_path: Path) -> None:
    other = Journal.create(tmp_path / "other", IMAGE)
    with pytest.raises(OutputError, match="holds a session already"):
        Journal.create(journal.path.parent, IMAGE)
    with pytest.raises(OutputError, match="holds a session already"):
        other.save_as(journal.path.parent, keep_former=False)
    other.close(finished=True)
    assert restore(other.path).image_info == IMAGE


def test_a_closed_journal_is_one_file_and_says_so_when_used(journal: Journal) -> None:
    recorded(journal)
    journal.close(finished=True)
    assert os.listdir(journal.path.parent) == ["journal.sqlite"]
    with pytest.raises(JournalError, match="closed"):
        journal.append_undo()


# ---------------------------------------------------------------- what cannot work


def is_one_line(error: pytest.ExceptionInfo[ClipSamError]) -> bool:
    return "\n" not in str(error.value) and str(error.value).count(". ") <= 3


def test_a_journal_in_use_is_refused_in_the_same_and_in_another_process(journal: Journal) -> None:
    with pytest.raises(JournalError, match="open in another window") as caught:
        Journal.reopen(journal.path)
    assert is_one_line(caught)
    with pytest.raises(JournalError, match="open in another window"):
        restore(journal.path)
    code = (
        "import sys\n"
        "from napari_clipsam.errors import JournalError\n"
        "from napari_clipsam.session.journal import Journal, restore\n"
        "for way in (Journal.reopen, restore):\n"
        "    try: way(sys.argv[1])\n"
        "    except JournalError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(journal.path)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.count("open in another window or program") == 2, done.stderr
    # Neither harmed the one who works on it.
    driver = recorded(journal)
    journal.close(finished=True)
    assert same_session(restore(journal.path), driver)


def test_nothing_heavy_is_imported_to_record_and_restore() -> None:
    code = (
        "import sys, napari_clipsam.session.journal\n"
        "heavy = {'torch', 'napari', 'scipy', 'skimage', 'zarr', 'tifffile', 'PIL', 'pydantic'}\n"
        "print(heavy & {name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


def test_a_full_disk_is_told_and_what_was_held_back_is_written_later(journal: Journal) -> None:
    driver = recorded(journal)
    (pages,) = journal._open.execute("PRAGMA page_count").fetchone()
    journal._open.execute(f"PRAGMA max_page_count = {pages}")
    seeds = iter(range(20, 500))
    with pytest.raises(OutputError, match=r"full.*recorded then") as caught:
        deque((driver.act("draft", seed) for seed in seeds), maxlen=0)
    assert is_one_line(caught)
    with pytest.raises(OutputError, match="full"):
        driver.act("paint", 5)
    journal._open.execute("PRAGMA max_page_count = 100000")
    driver.act("paint", 50)
    journal.close(finished=True)
    assert same_session(restore(journal.path), driver)


def test_a_full_disk_at_the_start_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, image: str) -> None:
        path.write_bytes(b"part")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("napari_clipsam.session.journal.create", full)
    with pytest.raises(OutputError, match="Free some space"):
        Journal.create(tmp_path, IMAGE)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        Journal.create(tmp_path / "file" / "project", IMAGE)
    # Root may write anywhere, so the system's answer is put in its mouth.
    monkeypatch.setattr("napari_clipsam.outputs.os.access", lambda *_: False)
    with pytest.raises(OutputError, match="may not be written to"):
        Journal.create(tmp_path / "read-only", IMAGE)


def test_a_session_where_nothing_may_be_written_is_still_read(journal: Journal) -> None:
    driver = recorded(journal)
    journal.close(finished=True)
    before = journal.path.read_bytes()
    journal.path.chmod(0o444)
    assert same_session(restore(journal.path), driver)
    assert journal.path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a recorded session"),
        (b"PK\x03\x04 something else altogether" * 50, "not a recorded session"),
        (b"SQLite format 3\x00" + bytes(300), "not a recorded session"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(content)
    for way in (restore, Journal.reopen):
        with pytest.raises(JournalError, match=message) as caught:
            way(path)
        assert is_one_line(caught)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    altered(tmp_path / "journal.sqlite", "CREATE TABLE step (id)")
    with pytest.raises(JournalError, match="not a recorded session"):
        restore(tmp_path)
    with pytest.raises(JournalError, match="no recorded session"):
        restore(tmp_path / "nowhere.sqlite")


def test_a_newer_format_says_to_update(journal: Journal) -> None:
    journal.close(finished=True)
    altered(journal.path, f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(JournalError, match=r"newer version.*Update") as caught:
        restore(journal.path)
    assert is_one_line(caught)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_file_that_was_cut_short_is_refused(journal: Journal, share: float) -> None:
    recorded(journal)
    journal.close(finished=True)
    content = journal.path.read_bytes()
    journal.path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(JournalError):
        restore(journal.path)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_never_a_crash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    journal = Journal.create(folder, IMAGE)
    recorded(journal)
    journal.close(finished=True)
    content = bytearray(journal.path.read_bytes())
    restored = None
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    journal.path.write_bytes(content)
    with suppress(JournalError):
        restored = restore(journal.path)
    assert restored is None or restored.image_info.name


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("UPDATE patch SET box = '[0, 0, 400000, 400000]'", ()),
        ("UPDATE patch SET box = '[-1, 0, 2, 2]'", ()),
        ("UPDATE patch SET plane = '[99, null, null]'", ()),
        ("UPDATE patch SET plane = '[null, null]'", ()),
        ("UPDATE patch SET plane = '[[0], null, null]'", ()),
        ("UPDATE patch SET layer = 'other'", ()),
        ("UPDATE patch SET data = 'text'", ()),
        ("UPDATE patch SET data = ?", (b"\x80\x04.",)),
        ("UPDATE mask SET box = '[0, 0, 1000000, 1000000]'", ()),
        ("UPDATE mask SET bits = NULL", ()),
        ("UPDATE prompts SET body = '{\"points\": [[NaN, 1]]}'", ()),
        ("UPDATE prompts SET body = '{\"unknown\": 1}'", ()),
        ("UPDATE object SET body = '[]'", ()),
        ("UPDATE object SET body = ?", ("[" * 100_000,)),
        ("UPDATE step SET objects = '[[1, 1000000000000]]'", ()),
        ("UPDATE step SET kind = 'undo'", ()),
        ("UPDATE step SET kind = 'other'", ()),
        ("UPDATE step SET body = '[\"cells\", [3, 12, 10], \"O\", {}]' WHERE kind = 'layer'", ()),
        ("UPDATE step SET body = '[\"cells\", [3, -1, 10], \"<i4\", {}]' WHERE kind = 'layer'", ()),
        ("DELETE FROM image", ()),
        ("DELETE FROM object", ()),
        ("CREATE VIEW more AS SELECT 1", ()),
        ("CREATE TRIGGER t AFTER INSERT ON step BEGIN DELETE FROM patch; END", ()),
    ],
)
def test_a_forged_file_is_refused(journal: Journal, sql: str, values: tuple[object, ...]) -> None:
    recorded(journal)
    journal.close(finished=True)
    altered(journal.path, sql, *values)
    with pytest.raises(JournalError, match="damaged") as caught:
        restore(journal.path)
    assert is_one_line(caught)


def test_labels_larger_than_the_memory_are_refused(journal: Journal) -> None:
    recorded(journal)
    journal.close(finished=True)
    body = json.dumps(["cells", [1 << 20, 1 << 20, 1 << 20], "<i4", {}])
    altered(journal.path, "UPDATE step SET body = ? WHERE kind = 'layer'", body)
    with pytest.raises(JournalError, match="does not fit into memory"):
        restore(journal.path)


def test_a_session_of_another_image_is_told_apart_by_its_shape() -> None:
    IMAGE.check(SHAPE)
    with pytest.raises(JournalError, match="3 x 12 x 10 pixels, but this image has 4 x 5"):
        IMAGE.check((4, 5))


def test_a_patch_that_could_not_be_restored_is_not_recorded(journal: Journal) -> None:
    driver = recorded(journal)
    zeros, ones = np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8)
    for layer in ("cells", "unknown"):
        patch = LabelPatch(layer, (0, None, None), (0, 0, 1, 1), zeros, ones)
        with pytest.raises(JournalError, match=r"Journal\.layer"):
            journal.append(Change("keep", SessionState(), SessionState(), (patch,)))
    journal.close(finished=True)
    assert same_session(restore(journal.path), driver)


def test_logits_are_left_out_and_masks_kept(journal: Journal) -> None:
    driver = recorded(journal, FEW[:1])
    while not driver.state.draft:
        driver.act("draft", 3)
    one = driver.state.draft[0]
    plane, mask = next(iter(one.masks.items()))
    found = ObjectMask(mask.box, mask.mask, mask.score, np.ones((64, 64), np.float32))
    state = driver.state.with_draft([replace(one, masks={plane: found})])
    journal.append(Change("click", driver.state, state))
    journal.close(finished=True)
    back = restore(journal.path).state.draft[0].masks[plane]
    assert back.logits is None and plain(back) == plain(mask)
