"""Models downloaded from a real server: whole, of the right kind, and installed once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from serving import FileServer, answer, cut, page, serving, stall, trickle
from tiny import CLIP_ARCHITECTURE, tiny_clip, tiny_sam

from napari_clipsam.errors import DownloadError, OutputError, Stopped, WeightsError
from napari_clipsam.models import download, installing, registry, store
from napari_clipsam.models.catalogue import CLIPS
from napari_clipsam.models.download import DownloadProgress, Patience
from napari_clipsam.models.registry import (
    Checksum,
    ModelEntry,
    clips,
    import_file,
    install,
    load_model,
    models,
    models_folder,
    register_model,
    uninstall,
)
from napari_clipsam.models.weights import load_sam, save_sam

TINY = "napari-clipsam-tiny-installing"
CLIP = f"{TINY}:laion"


def torch_file(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


SAM = torch_file(
    {"model_state": tiny_sam(4).state_dict(), "decoder_state": tiny_sam(5).state_dict()}
)
SHA256 = hashlib.sha256(SAM).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user folder, a registry of the test's own, and a downloader that gives up soon."""
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))
    patience = Patience(connect=2, stall=0.3, pauses=(0.01,))
    monkeypatch.setattr(download, "Patience", lambda: patience)
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(SAM) as server:
        register_model(
            ModelEntry(
                "cells",
                "custom",
                server.url,
                Checksum("sha256", SHA256[:8]),
                domain="cells",
                licence="CC0",
            )
        )
        yield server


def known(**changes: object) -> None:
    registry._KNOWN["cells"] = replace(registry._KNOWN["cells"], **changes)


def done(name: str = "cells", stop: Callable[[], bool] = lambda: False) -> ModelEntry:
    steps = install(name, stop)
    while True:
        try:
            assert isinstance(next(steps), DownloadProgress)
        except StopIteration as end:
            return end.value


def entry(name: str = "cells") -> ModelEntry:
    return {e.name: e for e in models()}[name]


def leftovers() -> list[str]:
    return sorted(path.name for path in (models_folder() / "downloads").glob("*"))


def test_a_model_is_downloaded_checked_and_used_by_name(server: FileServer) -> None:
    found = done()

    assert found == entry() and found.installed
    assert found.file == models_folder() / "cells.pth" and found.file.read_bytes() == SAM
    assert (found.sha256, found.checksum) == (SHA256, Checksum("sha256", SHA256[:8]))
    assert (found.licence, found.size_mb) == ("CC0", len(SAM) / 1e6)
    assert json.loads((models_folder() / "cells.json").read_text())["source"] == server.url
    assert load_model("cells").sam.identity == load_sam(found.file).identity == tiny_sam(4).identity
    assert leftovers() == []


def test_nothing_happens_before_it_is_asked_for(server: FileServer, home: Path) -> None:
    install("cells")

    assert server.asked == [] and not home.exists()


def test_an_installed_model_is_not_downloaded_again(server: FileServer) -> None:
    first = done()

    assert done() == first and len(server.asked) == 1


@pytest.mark.parametrize("name", ["starter", "mine"])
def test_what_is_there_already_is_returned(server: FileServer, name: str, tmp_path: Path) -> None:
    (tmp_path / "sam.pth").write_bytes(SAM)
    import_file("mine", tmp_path / "sam.pth")

    assert done(name).installed and server.asked == []


def test_a_model_that_can_only_be_imported_says_so(server: FileServer, tmp_path: Path) -> None:
    register_model(ModelEntry("lost", "custom", file=tmp_path / "nowhere.pth"))
    with pytest.raises(WeightsError, match=r"'lost' cannot be downloaded.*import lost FILE"):
        done("lost")
    with pytest.raises(WeightsError, match=r"no model 'cels'.*Did you mean cells\?"):
        done("cels")


def test_a_model_whose_file_was_deleted_is_downloaded_again(server: FileServer) -> None:
    first = done()
    assert first.file is not None
    first.file.unlink()

    assert done() == entry() and first.file.read_bytes() == SAM
    assert uninstall("cells") == first.file and not entry().installed


# ---------------------------------------------------------------- what is not the model


@pytest.mark.parametrize("behaviour", [cut(1000), stall(1000), answer(404), answer(503), page()])
def test_a_failed_download_installs_nothing_and_a_later_one_works(
    server: FileServer, behaviour: Callable[..., None]
) -> None:
    server.coming += [behaviour] * 3
    with pytest.raises(DownloadError, match="models import cells FILE"):
        done()
    assert not entry().installed and not list(models_folder().glob("*.*"))
    server.coming.clear()

    assert done().installed and leftovers() == []


def test_other_bytes_are_not_installed(server: FileServer) -> None:
    server.content = SAM[:-1] + b"x"
    with pytest.raises(DownloadError, match="not the one that its publisher states"):
        done()
    assert not entry().installed and leftovers() == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"nonsense, and more", "is not a weights file"),
        (SAM[:-100], "is damaged or cut off"),
        (torch_file({"weight": torch.ones(2)}), "holds no SAM"),
    ],
)
def test_a_file_without_a_checksum_still_has_to_be_a_sam(
    server: FileServer, content: bytes, reason: str
) -> None:
    known(checksum=None)
    server.content = content
    with pytest.raises(WeightsError, match=rf"'cells' cannot be used and was deleted\. .*{reason}"):
        done()
    assert not entry().installed and leftovers() == []


def test_a_sam_of_another_architecture_is_not_installed(server: FileServer) -> None:
    known(architecture="vit_b")
    with pytest.raises(WeightsError, match="of the architecture custom, not vit_b"):
        done()
    assert not entry().installed and leftovers() == []


# ---------------------------------------------------------------- without a publisher's checksum


def test_the_first_download_is_what_later_ones_are_compared_with(server: FileServer) -> None:
    known(checksum=None)
    first = Checksum("sha256", SHA256, "first download")

    assert done().checksum == first
    uninstall("cells")
    server.content = torch_file(tiny_sam(9).state_dict())
    with pytest.raises(DownloadError, match="not the one that was first downloaded here"):
        done()
    server.content = SAM
    assert done().checksum == first and entry().checksum == first
    seen = (models_folder() / "first_downloads.txt").read_text()
    assert seen == f"{SHA256}  cells\n"


def test_an_import_is_compared_with_the_first_download_too(
    server: FileServer, tmp_path: Path
) -> None:
    known(checksum=None)
    done()
    uninstall("cells")
    save_sam(tiny_sam(9), tmp_path / "other.safetensors")
    (tmp_path / "same.pth").write_bytes(SAM)

    with pytest.raises(WeightsError, match=f"not the file known as 'cells'.*not {SHA256}"):
        import_file("cells", tmp_path / "other.safetensors")
    assert import_file("cells", tmp_path / "same.pth").installed


# ---------------------------------------------------------------- stopped, and two at once


def test_a_stopped_download_goes_on_later(server: FileServer) -> None:
    server.coming.append(stall(65_536))
    end = time.monotonic() + 0.3
    with pytest.raises(Stopped, match=r"download of cells was stopped at 66 kB of 885 kB"):
        done(stop=lambda: time.monotonic() > end)
    assert leftovers() == ["cells.json", "cells.part"]

    assert done().installed and leftovers() == []
    assert server.asked[1] == ("bytes=65536-", '"first"')


def test_the_last_check_can_be_stopped(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def slow(*given: object) -> str:
        loading.set()
        go_on.wait(10)
        return "custom"

    with monkeypatch.context() as patch:
        patch.setattr(installing, "_loaded_architecture", slow)
        with pytest.raises(Stopped, match="what is there is kept"):
            done(stop=loading.is_set)
    assert not go_on.is_set() and not entry().installed
    go_on.set()

    assert done().installed and len(server.asked) == 2
    assert server.asked[1] == (f"bytes={len(SAM)}-", '"first"'), "there was no more to come"


def test_two_downloads_of_a_model_are_one(server: FileServer) -> None:
    server.coming.append(trickle(4, 0.1))
    first, second = install("cells"), install("cells")
    next(first)
    results: list[ModelEntry] = []

    def finish(steps: Iterator[DownloadProgress]) -> None:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                results.append(end.value)
                return

    waiting = threading.Thread(target=finish, args=[second])
    waiting.start()
    time.sleep(0.2)
    finish(first)
    waiting.join()

    assert len(server.asked) == 1 and results == [entry(), entry()] and entry().installed
    assert leftovers() == []


def test_the_second_of_two_goes_on_where_the_first_gave_up(server: FileServer) -> None:
    server.coming.append(stall(65_536))
    first, second = install("cells"), install("cells")
    while next(first).done < 65_536:
        pass
    assert next(second).done == 65_536, "it tells how far the first is"
    first.close()

    for _ in second:
        pass
    assert entry().installed and server.asked[1] == ("bytes=65536-", '"first"')


def test_waiting_for_another_can_be_stopped(server: FileServer) -> None:
    server.coming.append(stall(100))
    first = install("cells")
    next(first)
    with pytest.raises(Stopped):
        done(stop=lambda: True)
    first.close()


def test_nothing_is_imported_or_deleted_while_it_is_downloaded(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "sam.pth").write_bytes(SAM)
    server.coming.append(stall(65_536))
    steps = install("cells")
    while next(steps).done < 65_536:
        pass

    for act in (lambda: import_file("cells", tmp_path / "sam.pth"), lambda: uninstall("cells")):
        with pytest.raises(WeightsError, match="'cells' is being installed right now"):
            act()
    steps.close()
    assert done().installed and leftovers() == []


def test_a_record_without_its_file_is_not_deleted_while_the_file_comes(server: FileServer) -> None:
    """Else the record of what has just been installed could be what is deleted."""
    file = done().file
    assert file is not None
    file.unlink()
    server.coming.append(stall(65_536))
    steps = install("cells")
    while next(steps).done < 65_536:
        pass

    with pytest.raises(WeightsError, match="'cells' is being installed right now"):
        uninstall("cells")
    steps.close()
    assert done().installed


def test_nothing_is_installed_while_it_is_deleted(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sam.pth").write_bytes(SAM)
    done()
    delete, waiting = Path.unlink, []

    def delete_and_install(path: Path, missing_ok: bool = False) -> None:
        delete(path, missing_ok)
        if path.name == "cells.json" and not waiting:
            waiting.append(install("cells"))
            assert next(waiting[0]).done == 0, "it waits"
            with pytest.raises(WeightsError, match="'cells' is being installed right now"):
                import_file("cells", tmp_path / "sam.pth")

    monkeypatch.setattr(Path, "unlink", delete_and_install)
    uninstall("cells")

    assert waiting and not entry().installed and not list(models_folder().glob("*.*"))
    for _ in waiting[0]:
        pass
    assert entry().installed and leftovers() == []


def test_a_second_import_leaves_the_first_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sam.pth").write_bytes(SAM)
    copy, refused = shutil.copyfile, []

    def copy_and_try_again(source: Path, target: Path) -> None:
        copy(source, target)
        with pytest.raises(WeightsError, match="'mine' is being installed right now") as caught:
            import_file("mine", tmp_path / "sam.pth")
        refused.append(caught)

    monkeypatch.setattr(shutil, "copyfile", copy_and_try_again)

    assert import_file("mine", tmp_path / "sam.pth").installed and refused
    assert leftovers() == []


def test_an_import_does_not_replace_what_came_while_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sam.pth").write_bytes(SAM)
    (tmp_path / "other.pth").write_bytes(torch_file(tiny_sam(6).state_dict()))
    look = installing._loaded_architecture

    def another_is_quicker(*given: Any) -> str:
        monkeypatch.setattr(installing, "_loaded_architecture", look)
        import_file("mine", tmp_path / "sam.pth")
        return look(*given)

    monkeypatch.setattr(installing, "_loaded_architecture", another_is_quicker)
    with pytest.raises(WeightsError, match="There is a model 'mine' already"):
        import_file("mine", tmp_path / "other.pth")
    assert entry("mine").sha256 == SHA256


def test_what_has_come_of_a_download_can_be_thrown_away(server: FileServer) -> None:
    server.coming.append(stall(65_536))
    steps = install("cells")
    while next(steps).done < 65_536:
        pass
    steps.close()

    assert uninstall("cells") == models_folder() / "downloads" / "cells.part"
    assert leftovers() == []
    (models_folder() / "other.part").touch()
    for name in ("cells", "../other"):
        with pytest.raises(WeightsError, match=f"no installed model '{name}'"):
            uninstall(name)
    assert (models_folder() / "other.part").exists()


# ---------------------------------------------------------------- the disk


def test_a_folder_that_cannot_be_written_to_is_named(server: FileServer, home: Path) -> None:
    home.touch()
    with pytest.raises(OutputError, match=r"cannot be written to.*NAPARI_CLIPSAM_HOME"):
        done()
    assert server.asked == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="such a user may write anywhere")
def test_a_folder_that_may_only_be_read_is_named(server: FileServer) -> None:
    models_folder().mkdir(parents=True)
    models_folder().chmod(0o500)
    with pytest.raises(OutputError, match=r"cannot be written to.*NAPARI_CLIPSAM_HOME"):
        done()


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, nothing is written, as where the folder is another user's."""

    def refuse(*given: object, **how: object) -> None:
        raise PermissionError(13, "Permission denied")

    system_open, python_open = os.open, io.open

    def opened(path: Any, flags: int, *given: Any, **how: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse()
        return system_open(path, flags, *given, **how)

    def file(path: Any, mode: str = "r", *given: Any, **how: Any) -> Any:
        if set(mode) & set("wax+"):
            refuse()
        return python_open(path, mode, *given, **how)

    def begin() -> None:
        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(io, "open", file)
        monkeypatch.setattr("builtins.open", file)
        for name in ("mkdir", "replace", "rename", "unlink", "remove", "utime"):
            monkeypatch.setattr(os, name, refuse)

    return begin


def test_models_of_a_folder_that_may_only_be_read_are_used(
    server: FileServer, read_only: Callable[[], None]
) -> None:
    """A group's, for instance, which its keeper filled."""
    file = done().file
    assert file is not None
    os.utime(file, (1, 1))  # as copying may leave it; then its bytes are compared
    read_only()

    assert entry().installed and load_model("cells").sam.identity == tiny_sam(4).identity
    for act in (lambda: uninstall("cells"), lambda: import_file("mine", file)):
        with pytest.raises(OutputError, match=r"cannot be written to \(Permission denied\)"):
            act()
    assert entry().installed and file.read_bytes() == SAM


def test_a_lock_that_cannot_be_made_is_said(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*given: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OutputError, match=r"downloads cannot be written to \(Permission denied\)"):
        done()


def test_a_place_that_cannot_be_taken_leaves_the_file_to_go_on_with(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OutputError, match="Permission denied"):
            done()
    assert not entry().installed

    assert done().installed and len(server.asked) == 2


def test_a_record_that_cannot_be_written_leaves_no_file_without_one(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(*given: object, **more: object) -> Iterator[Path]:
        raise OutputError("The disk is full. Free some space.")
        yield Path()

    with monkeypatch.context() as patch:
        patch.setattr(store, "replacing", full)
        with pytest.raises(OutputError, match="full"):
            done()
    assert not entry().installed and leftovers() == ["cells.json", "cells.part"]
    assert [path.name for path in models_folder().iterdir()] == ["downloads"]

    assert done().installed


# ---------------------------------------------------------------- CLIPs


@pytest.fixture(scope="module", autouse=True)
def _architecture(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{TINY}.json").write_text(json.dumps(CLIP_ARCHITECTURE))
    open_clip.add_model_config(folder)


@pytest.fixture
def clip_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A hub with the weights of a tag that open_clip knows."""
    sources = {"laion": {"hf_hub": "laion/tiny/", "quick_gelu": True}}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: list(sources))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: sources[tag])
    with serving(torch_file(tiny_clip(5).model.state_dict())) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/files/sam.pth") + "/")
        yield server


def test_a_clip_of_open_clip_is_installed_by_its_tag(clip_server: FileServer) -> None:
    clip_server.coming.append(answer(404))  # no .safetensors, as in some repositories
    found = done(CLIP)

    assert found in clips() and found.installed and found.kind == "clip"
    assert found.file == models_folder() / "clips" / f"{TINY}--laion.pth"
    assert found.checksum is not None and found.checksum.origin == "first download"
    assert found.source is not None
    assert found.source.endswith("/laion/tiny/resolve/main/open_clip_pytorch_model.bin")
    assert load_model("starter", clip=CLIP).clip.identity == tiny_clip(5).identity
    assert leftovers() == []
    assert uninstall(CLIP) == found.file and found not in clips()


def test_a_file_that_is_no_clip_is_not_installed(clip_server: FileServer) -> None:
    clip_server.content = SAM
    with pytest.raises(WeightsError, match=r"cannot be used and was deleted.*CLIP architecture"):
        done(CLIP)
    assert CLIP not in [e.name for e in clips()] and leftovers() == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [("RN50:openai", "convolutional tower"), ("ViT-B-16:opanai", "no weights 'opanai'")],
)
def test_a_clip_that_could_not_be_used_is_refused_before_anything_comes(
    name: str, reason: str, home: Path
) -> None:
    with pytest.raises(WeightsError, match=reason):
        done(name)
    assert leftovers() == []


def test_loading_a_clip_asks_no_server(clip_server: FileServer) -> None:
    with pytest.raises(WeightsError, match="not installed"):
        load_model("starter", clip=CLIP)
    assert clip_server.asked == [] and CLIP not in CLIPS
