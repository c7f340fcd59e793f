"""``models`` and ``adapters``: what is listed, imported, removed, shown and converted."""

from __future__ import annotations

import _thread
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tifffile
import torch
from bright import Run
from safetensors.torch import load_file
from serving import FileServer, Handler, answer, serving, trickle
from tiny import CLIP_ARCHITECTURE

from napari_clipsam.adapters.files import read_header
from napari_clipsam.adapters.released import load_released
from napari_clipsam.models import registry
from napari_clipsam.models.checksum import sha256_of
from napari_clipsam.models.clip import ClipConfig, build_clip
from napari_clipsam.models.registry import Checksum, ModelEntry, register_model
from napari_clipsam.models.weights import load_clip, load_sam, save_clip


@pytest.mark.parametrize("words", [["models"], ["models", "list"]])
def test_all_known_models_are_listed(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert (done.status, done.err) == (0, "")
    sams, clips, how = done.out.split("\n\n")
    rows = {line.split()[0]: line for line in sams.splitlines()}
    assert {"starter", "vit_b", "vit_l", "vit_h", "vit_b_lm", "medsam"} <= set(rows)
    assert "Apache-2.0" in rows["vit_b"] and "375 MB" in rows["vit_b"]
    assert "yes" in rows["starter"].split() and "no" in rows["vit_b"].split()
    assert {"starter", "ViT-B-16:openai"} <= {line.split()[0] for line in clips.splitlines()}
    assert "models download NAME" in how and "models import NAME FILE" in how


def test_an_imported_model_works_by_name_until_it_is_removed(
    run: Run, image: Path, tmp_path: Path, tiny_files: dict[str, Path]
) -> None:
    options = ["--text", "nuclei", "--clip", tiny_files["clip"], "-o", tmp_path / "o.tif"]
    done = run("models", "import", "mine", tiny_files["sam"])
    assert done.status == 0 and "--model mine" in done.out
    assert sha256_of(tiny_files["sam"]) in done.out and "none to compare" in done.out
    assert "mine" in run("models").out
    done = run("segment", image, "--model", "mine", "--json", tmp_path / "r.json", *options)
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "r.json").read_text())["model"] == "mine"
    assert run("models", "remove", "mine").status == 0
    assert not list((tmp_path / "home" / "models").rglob("*.*"))
    assert tiny_files["sam"].is_file()
    done = run("segment", image, "--model", "mine", "--overwrite", *options)
    assert done.status == 2 and "There is no model 'mine'" in done.err


@pytest.mark.parametrize("name", ["starter", "vit_b", "ViT-B-16:openai", "other"])
def test_only_installed_models_can_be_removed(run: Run, name: str) -> None:
    done = run("models", "remove", name)
    assert done.status == 2 and f"no installed model '{name}'" in done.err


def test_names_that_are_taken_or_impossible(run: Run, tiny_files: dict[str, Path]) -> None:
    for name in ("starter", "../mine", "mine.pth", "C:mine"):
        done = run("models", "import", name, tiny_files["sam"])
        assert done.status == 2 and name in done.err
    done = run("models", "import", "vit_b", tiny_files["sam"])
    assert done.status == 2 and "vit_b" in done.err


# ---------------------------------------------------------------- downloading


@pytest.fixture
def server(tiny_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server with the SAM that is known as cells."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))
    stated = Checksum("sha256", sha256_of(tiny_files["sam"])[:8])
    with serving(tiny_files["sam"].read_bytes()) as server:
        register_model(ModelEntry("cells", "custom", server.url, stated))
        yield server


def test_a_model_is_downloaded_and_used_by_name(
    run: Run, server: FileServer, image: Path, tmp_path: Path, tiny_files: dict[str, Path]
) -> None:
    options = ["--point", "5,5", "--clip", tiny_files["clip"], "-o", tmp_path / "o.tif"]
    before = run("segment", image, "--model", "cells", *options)
    assert before.status == 2 and "`napari-clipsam models download cells`" in before.err

    done = run("models", "download", "cells")

    assert (done.status, done.err) == (0, "")
    assert f"sha256 {sha256_of(tiny_files['sam'])}, as its publisher states" in done.out
    assert "--model cells" in done.out
    assert run("segment", image, "--model", "cells", *options).status == 0
    again = run("models", "download", "cells")
    assert (again.status, again.out) == (0, "cells is installed already.\n")
    assert len(server.asked) == 1


def test_a_download_that_fails_is_one_line(run: Run, server: FileServer) -> None:
    server.coming.append(answer(404))
    done = run("models", "download", "cells")

    assert done.status == 1 and done.out == "" and done.err.count("\n") == 1
    assert "does not have the file" in done.err and "models import cells FILE" in done.err


def test_a_name_that_is_not_known_is_refused(run: Run) -> None:
    for name, saying in (("cels", "Known are: "), ("RN50:openai", "convolutional tower")):
        done = run("models", "download", name)
        assert done.status == 2 and saying in done.err and done.err.count("\n") == 1


def test_ctrl_c_keeps_what_has_come_and_says_how_to_go_on(run: Run, server: FileServer) -> None:
    def interrupted(handler: Handler) -> None:
        handler.wfile.write(handler.begin()[:65_536])
        handler.server.over.wait(0.5)
        _thread.interrupt_main()
        handler.server.over.wait(30)

    server.coming.append(interrupted)
    done = run("models", "download", "cells")

    assert done.status == 130 and done.out == "" and done.err.count("\n") == 1
    assert "Stopped at 66 kB of 394 kB" in done.err, done.err
    assert "`napari-clipsam models download cells` goes on from there" in done.err
    assert run("models", "download", "cells").status == 0
    assert server.asked[1] == ("bytes=65536-", '"first"')


def test_progress_is_shown_on_a_terminal(
    run: Run, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr.__class__, "isatty", lambda stream: True)
    server.coming.append(trickle(8, 0.15))
    done = run("models", "download", "cells")

    shown = done.err.split("\r")
    assert any(re.match(r"cells \d+ kB of 394 kB, about \d+ s left", line) for line in shown)
    assert shown[-1] == "" and shown[-2].isspace(), "the line is left empty"


def test_a_clip_of_another_width_than_the_adapters_is_refused(
    run: Run, image: Path, tmp_path: Path, tiny_files: dict[str, Path]
) -> None:
    architecture = {**CLIP_ARCHITECTURE, "embed_dim": 24}
    clip = build_clip(ClipConfig(architecture, input_size=64, surgery_blocks=2))
    save_clip(clip, tmp_path / "wide.safetensors")
    words = ["--text", "nuclei", "--model", tiny_files["sam"], "--adapter", tiny_files["adapter"]]
    options = ["--clip", tmp_path / "wide.safetensors", "-o", tmp_path / "o.tif"]
    done = run("segment", image, *words, *options)

    assert done.status == 2 and done.err.count("\n") == 1
    assert "belongs to another CLIP" in done.err and not (tmp_path / "o.tif").exists()


# ---------------------------------------------------------------- adapters


def test_adapters_are_listed_and_known_by_name(
    run: Run, image: Path, tmp_path: Path, tiny: list[object], tiny_files: dict[str, Path]
) -> None:
    folder = tmp_path / "home" / "adapters"
    folder.mkdir(parents=True)
    (folder / "mine.safetensors").write_bytes(tiny_files["adapter"].read_bytes())
    (folder / "broken.safetensors").write_bytes(b"?")
    for words in (["adapters"], ["adapters", "list"]):
        done = run(*words)
        assert done.status == 0, done.err
        rows = {line.split()[0]: line for line in done.out.splitlines() if line}
        assert {"starter", "mine"} <= set(rows) and "nuclei, cells" in rows["mine"]
        assert "cannot be read" in rows["broken"]
    done = run(
        "segment",
        image,
        "--text",
        "nuclei",
        "-o",
        tmp_path / "o.tif",
        "--json",
        tmp_path / "r.json",
        "--adapter",
        "mine",
        *tiny,
    )
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "r.json").read_text())["adapter"] == "mine"
    assert run("adapters", "show", "mine").out.split() != []


def test_an_adapter_tells_all_about_itself(run: Run, tiny_files: dict[str, Path]) -> None:
    done = run("adapters", "show", tiny_files["adapter"])
    assert done.status == 0, done.err
    facts = dict(line.split(None, 1) for line in done.out.splitlines())
    header = read_header(tiny_files["adapter"])
    assert facts["words"] == "nuclei, cells"
    assert facts["scores.dice"] == "0.8125" and facts["provenance.planes"] == "3"
    assert facts["config.n_conditioned"] == "1"
    assert header.info.base_identity in done.out and header.info.clip_identity in done.out
    assert "presence 0.250" in done.out


def test_a_checkpoint_of_the_paper_is_converted_with_its_networks(
    run: Run, shared: Path, tmp_path: Path
) -> None:
    released, out = shared / "parity" / "released_checkpoint.pth", tmp_path / "paper.safetensors"
    done = run("adapters", "convert", released, "-o", out)
    assert done.status == 0, done.err
    parts = load_released(released)
    sam = load_sam(tmp_path / "paper_sam.safetensors")
    clip = load_clip(tmp_path / "paper_clip.safetensors")
    header = read_header(out)
    assert sam.identity == parts.sam.identity == header.info.base_identity
    assert clip.identity == parts.clip.identity == header.info.clip_identity
    stored = load_file(out)
    assert all(torch.equal(stored[k], v) for k, v in parts.adapter.state_dict().items())
    assert header.info.provenance["converted_from"] == released.name
    assert run("adapters", "show", out).status == 0
    again = run("adapters", "convert", released, "-o", out)
    assert again.status == 2 and "--overwrite" in again.err
    assert run("adapters", "convert", released, "-o", out, "--overwrite").status == 0


@pytest.mark.parametrize(
    ("output", "saying"), [("a.pth", "end in .safetensors"), ("no/a.safetensors", "does not exist")]
)
def test_conversions_that_cannot_be_written(
    run: Run, tmp_path: Path, output: str, saying: str
) -> None:
    done = run("adapters", "convert", tmp_path / "x.pth", "-o", tmp_path / output)
    assert done.status == 2 and saying in done.err
    assert not list(tmp_path.iterdir())


def test_a_plain_sam_is_no_checkpoint_of_the_paper(run: Run, tmp_path: Path) -> None:
    torch.save({"layer": torch.zeros(2)}, tmp_path / "x.pth")
    tifffile.imwrite(tmp_path / "y.pth", torch.zeros(4, 4).numpy())
    for name, saying in (
        ("x.pth", "not a checkpoint of the paper's code"),
        ("y.pth", "y.pth"),
        ("z.pth", "There is no file"),
    ):
        done = run("adapters", "convert", tmp_path / name, "-o", tmp_path / "a.safetensors")
        assert done.status == 2 and saying in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pth", "y.pth"]
