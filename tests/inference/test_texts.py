"""Text features that outlive a session."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from tiny import tiny_clip, tiny_sam

from napari_clipsam.inference.encoding import PlaneEncoder
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.inference.texts import TextFile
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

CPU = torch.device("cpu")


def text_file(clip: Clip, folder: Path) -> TextFile:
    return TextFile(clip, CPU, folder)


def test_a_later_session_asks_clip_for_no_text_and_answers_the_same(
    model: LoadedModel, make_plane: Callable[..., Plane], tmp_path: Path
) -> None:
    plane, found, calls = make_plane(), [], []
    for folder in (None, tmp_path, tmp_path):
        again = LoadedModel("tiny", model.sam, tiny_clip(), None)
        segmenter = Segmenter(again, None, "cpu", texts=folder)
        segmenter.set_plane(plane)
        found.append(segmenter.predict(Prompts("Cell  nuclei")).similarity)
        calls.append((segmenter.calls["text"], again.clip._redundant is not None))

    assert calls == [(1, True), (1, True), (0, False)]
    assert (found[0] == found[1]).all() and (found[1] == found[2]).all()
    (file,) = tmp_path.iterdir()
    assert b"nuclei" not in file.read_bytes()


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_what_cannot_be_read_is_made_again(
    clip: Clip, tmp_path: Path, damage: bytes | None
) -> None:
    text_file(clip, tmp_path).put("nuclei", torch.ones(clip.dim))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-4] if damage is None else damage)
    kept = text_file(clip, tmp_path)
    assert kept.get("nuclei") is None
    kept.put("nuclei", torch.ones(clip.dim))
    assert torch.equal(kept.get("nuclei"), torch.ones(clip.dim))


def test_numbers_that_no_clip_gives_are_not_believed(clip: Clip, tmp_path: Path) -> None:
    kept = text_file(clip, tmp_path)
    kept.put("short", torch.ones(clip.dim - 1))
    kept.put("broken", torch.full((clip.dim,), torch.nan))
    assert kept.get("short") is None and kept.get("broken") is None


def test_two_processes_add_to_one_file(clip: Clip, tmp_path: Path) -> None:
    one, other = text_file(clip, tmp_path), text_file(clip, tmp_path)
    one.put("nuclei", torch.zeros(clip.dim))
    other.put("cells", torch.ones(clip.dim))
    assert one.get("cells") is not None and other.get("nuclei") is not None


def test_it_stays_small_and_keeps_what_all_words_share(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_clipsam.inference.texts._MOST", 3)
    kept = text_file(clip, tmp_path)
    for word in (None, "a", "b", "c"):
        kept.put(word, torch.ones(clip.dim))
    assert [kept.get(word) is not None for word in (None, "a", "b", "c")] == [
        True,
        False,
        False,
        True,
    ]


def test_another_clip_or_tokenizer_finds_nothing(clip: Clip, tmp_path: Path) -> None:
    text_file(clip, tmp_path).put("nuclei", torch.ones(clip.dim))
    other = tiny_clip()
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    assert text_file(other, tmp_path).get("nuclei") is None
    unknown = Clip(clip.model, clip.config, tokenizer=lambda texts: texts)
    text_file(unknown, tmp_path).put("cells", torch.ones(clip.dim))
    assert text_file(unknown, tmp_path).get("nuclei") is None
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_ends_no_answer(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    kept = text_file(clip, tmp_path / "file")
    kept.put("nuclei", torch.ones(clip.dim))
    assert kept.get("nuclei") is None


def test_a_full_disk_ends_no_answer_and_the_session_still_knows_the_word(
    clip: Clip, tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    encoder = PlaneEncoder(tiny_sam(), clip, CPU, torch.float32, 0, texts=tmp_path)
    with full_disk():
        first = encoder.text("nuclei")
    assert torch.equal(encoder.text("nuclei"), first)
    assert encoder.calls["text"] == 1 and not list(tmp_path.iterdir())
