"""Weights files: what is recognised, what is refused and how, and that nothing in them runs."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from tiny import CLIP_ARCHITECTURE, SAM_CONFIG, tiny_clip, tiny_sam
from torch import Tensor, nn

from napari_clipsam._folders import user_folder
from napari_clipsam.errors import ConfigError, OutputError, WeightsError
from napari_clipsam.models.clip import ClipConfig, build_clip
from napari_clipsam.models.reading import read_header
from napari_clipsam.models.sam import SAM_CONFIGS, Sam
from napari_clipsam.models.weights import (
    ClipFile,
    architecture_of,
    is_file,
    load_clip,
    load_sam,
    read_state,
    sam_config_of,
    sam_state,
    save_clip,
    save_sam,
)

STEM = {"stem_widths": (8, 8, 16, 16, 24), "stem_blocks": (0, 1, 1, 0, 2)}
#: SAM decoders have 8 heads, which no tensor shows.
PLAIN = {"decoder_heads": 8, "out_chans": 32}

State = dict[str, Tensor]


def same(found: State, wanted: State) -> bool:
    return set(found) == set(wanted) and all(torch.equal(found[n], wanted[n]) for n in wanted)


@pytest.fixture
def state() -> State:
    return dict(tiny_sam(**PLAIN).state_dict())


# ---------------------------------------------------------------- names that mean files


@pytest.mark.parametrize("name", ["a/b", "C:\\sam", "sam.pth", "SAM.PT", "x.safetensors", "./y"])
def test_names_written_like_paths_mean_files(name: str) -> None:
    assert is_file(name)


@pytest.mark.parametrize("name", ["starter", "vit_b", "laion2b_s34b_b88k", "v1.2"])
def test_names_of_models_do_not(name: str) -> None:
    assert not is_file(name)


def test_a_file_that_is_there_needs_no_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").touch()
    (tmp_path / "starter").mkdir()
    monkeypatch.chdir(tmp_path)

    assert is_file("weights") and not is_file("starter")


# ---------------------------------------------------------------- reading


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def with_second_decoder(state: State) -> dict[str, Any]:
    decoder = {f"blocks.{i}.weight": torch.ones(2) for i in range(2 * len(state))}
    return {"decoder_state": decoder, "model_state": OrderedDict(state)}


def training(state: State) -> dict[str, Any]:
    moments = {i: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3)} for i in range(len(state))}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-4, "params": [0, 1]}]}
    return {"model": state, "optimizer": optimizer, "epoch": 12, "best": None}


NESTED: dict[str, Callable[[State], dict[str, Any]]] = {
    "Meta": dict,
    "MedSAM, while training": training,
    "micro-sam": with_second_decoder,
    "micro-sam, while training": lambda s: {"model_state": prefixed("sam.", s), "iteration": 3},
    "data parallel": lambda s: {"model_state_dict": prefixed("module.", s)},
    "compiled and data parallel": lambda s: prefixed("module._orig_mod.", s),
    "lightning": lambda s: {"state_dict": prefixed("model.sam.", s), "loops": {"epoch": 1}},
    "unknown names": lambda s: {"run": {"weights": s, "ema_steps": torch.zeros(1)}, "seed": 1},
    "a head beside it": lambda s: {**prefixed("model.", s), "head.weight": torch.ones(4)},
    "pixel statistics": lambda s: {**s, "pixel_mean": torch.ones(3, 1, 1)},
    "parameters, not tensors": lambda s: {n: nn.Parameter(value) for n, value in s.items()},
}


@pytest.mark.parametrize("make", NESTED.values(), ids=NESTED.keys())
@pytest.mark.parametrize("zipped", [True, False])
def test_published_ways_to_nest_a_sam_are_read(
    make: Callable[[State], dict[str, Any]], zipped: bool, state: State, tmp_path: Path
) -> None:
    path = tmp_path / "sam.pth"
    torch.save(make(state), path, _use_new_zipfile_serialization=zipped)

    sam = load_sam(path)

    assert sam.config == replace(SAM_CONFIG, **PLAIN)
    assert same(dict(sam.state_dict()), state)
    assert not any(value.grad_fn for value in sam.parameters())


def test_safetensors_without_a_header_are_recognised_whatever_their_name(
    state: State, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "sam.pth")

    assert same(dict(load_sam(tmp_path / "sam.pth").state_dict()), state)


def test_half_precision_is_loaded_as_float32(state: State, tmp_path: Path) -> None:
    halved = {name: value.half() for name, value in state.items()}
    torch.save(halved, tmp_path / "sam.pth")

    sam = load_sam(tmp_path / "sam.pth")

    assert {p.dtype for p in sam.parameters()} == {torch.float32}
    assert same(dict(sam.state_dict()), {name: value.float() for name, value in halved.items()})


def test_a_loaded_sam_is_ready_and_can_be_trained(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "sam.pth")
    sam = load_sam(tmp_path / "sam.pth")
    sam.head(sam.trunk(torch.zeros(1, 3, 64, 64), 1), 1).sum().backward()

    assert not sam.training
    assert all(p.grad is not None for p in sam.image_encoder.parameters())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(prefix: str, tmp_path: Path) -> None:
    wanted = {"module": torch.ones(1), "visual.proj": torch.ones(2)}
    torch.save(prefixed(prefix, wanted), tmp_path / "clip.pt")

    assert same(read_state(tmp_path / "clip.pt"), wanted)


def test_a_prefix_of_some_names_is_part_of_them(tmp_path: Path) -> None:
    wanted = {"module.a": torch.ones(1), "visual.proj": torch.ones(2)}
    torch.save(wanted, tmp_path / "clip.pt")

    assert same(read_state(tmp_path / "clip.pt"), wanted)


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
def test_what_was_read_does_not_change_with_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    size = len(written(kind, path))
    state = read_state(path)
    with path.open("r+b") as file:
        file.write(bytes(size))

    assert torch.equal(state["weight"], torch.arange(4000.0))


def test_loading_draws_no_random_numbers(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "sam.pth")
    save_clip(tiny_clip(), tmp_path / "clip.safetensors")
    torch.manual_seed(7)
    load_sam(tmp_path / "sam.pth")
    load_clip(tmp_path / "clip.safetensors")

    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(7))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sprung),)


@pytest.mark.parametrize("zipped", [True, False, None])
def test_code_in_a_pickle_is_refused_and_does_not_run(
    zipped: bool | None, state: State, tmp_path: Path
) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "sam.pth"
    content = {"model": state, "extra": Trap(sprung)}
    if zipped is None:
        path.write_bytes(pickle.dumps({"extra": Trap(sprung)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)

    with pytest.raises(WeightsError, match=r"could run code, so it was not read.*state_dict\(\)"):
        load_sam(path)
    assert not sprung.exists()


def test_a_whole_pickled_model_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")

    with pytest.raises(WeightsError, match=r"Save the model's state_dict\(\) alone"):
        read_state(tmp_path / "model.pth")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_program_gives_its_tensors_and_is_not_run(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3).half())
    torch.jit.script(layers).save(tmp_path / "program.pt")

    assert same(read_state(tmp_path / "program.pt"), layers.state_dict())


def test_a_torchscript_program_that_asks_for_more_is_not_read(tmp_path: Path) -> None:
    class Asking:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    hostile = pickle.dumps(Asking(), protocol=2)
    foreign = pickle.dumps(OrderedDict(net=torch.float32), protocol=2)
    for number, content in enumerate((hostile, foreign)):
        path = tmp_path / f"{number}.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/constants.pkl", b"")
            archive.writestr("net/data.pkl", content)
        with pytest.raises(WeightsError, match="reading it could run code, so it was not read"):
            read_state(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_program_that_lacks_a_tensor_is_damaged(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 3)).save(tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "less.pt", "w") as less,
    ):
        for name in whole.namelist():
            less.writestr(name, b"" if name.endswith("data/0") else whole.read(name))

    with pytest.raises(WeightsError, match="is damaged or cut off"):
        read_state(tmp_path / "less.pt")


def written(kind: str, path: Path) -> bytes:
    """Bytes of a whole file of one kind."""
    state = {"weight": torch.arange(4000.0), "bias": torch.zeros(50)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.0003, 0.0008, 0.01, 0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    whole = written(kind, path)
    path.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(WeightsError, match=r"again|Choose a|or is damaged"):
        read_state(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("seed", range(4))
def test_a_file_with_wrong_bytes_never_ends_in_torchs_traceback(
    kind: str, seed: int, tmp_path: Path
) -> None:
    path = tmp_path / "sam.pth"
    damaged = bytearray(written(kind, path))
    generator = torch.Generator().manual_seed(seed)
    for place in torch.randint(400, (60,), generator=generator).tolist():
        damaged[place] = (damaged[place] + 91) % 256
    path.write_bytes(damaged)

    with pytest.raises(WeightsError):
        load_sam(path)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><p>404", b"\x89PNG\r\n\x1a\n" + bytes(99), b"{}", b"v 1\n" * 9]
)
def test_a_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "sam.pth").write_bytes(content)

    with pytest.raises(WeightsError, match=r"is not a weights file.*Choose a \.safetensors"):
        read_state(tmp_path / "sam.pth")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, {3: torch.ones(2)}, torch.ones(3)])
def test_a_file_without_named_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "sam.pth")

    with pytest.raises(WeightsError, match=r"no named tensors.*state dict"):
        read_state(tmp_path / "sam.pth")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no file .*sam\.pth\. Check the path"):
        load_sam(tmp_path / "sam.pth")
    with pytest.raises(WeightsError, match=r"is a folder\. Give the weights file in it"):
        load_sam(tmp_path)


# ---------------------------------------------------------------- recognising


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_metas_models_are_recognised_by_their_tensors(name: str) -> None:
    with torch.device("meta"):
        state = sam_model_registry[name]().state_dict()

    config = sam_config_of(sam_state(state))

    assert config == SAM_CONFIGS[name]
    assert architecture_of(config) == name


@pytest.mark.parametrize("input_size", [512, 768])
def test_an_architecture_keeps_its_name_at_another_input_size(input_size: int) -> None:
    config = replace(SAM_CONFIGS["vit_b"], input_size=input_size)
    with torch.device("meta"):
        state = Sam(config).state_dict()

    assert sam_config_of(state) == config
    assert architecture_of(config) == "vit_b"
    assert architecture_of(replace(config, depth=11)) == "custom"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window_size": 14},  # larger than the grid
        {"global_attn_indexes": ()},
        {"global_attn_indexes": (0, 1, 2), "window_size": 14},
        {"patch_size": 16, "input_size": 128},
        {"num_heads": 4, "depth": 5, "global_attn_indexes": (0, 3)},
        {"embed_dim": 48, "num_heads": 3, "out_chans": 64},
        {"decoder_mlp_dim": 40, "iou_hidden_dim": 24, "mask_in_chans": 12},
        STEM,
        {**STEM, "global_attn_indexes": (), "window_size": 16, "input_size": 512},
        {**STEM, "global_attn_indexes": (2,), "input_size": 128},
        {"refiner_widths": (8, 16, 24)},
        {"refiner_widths": (8, 16), "concept_refiner_widths": (8, 16, 24)},
    ],
)
def test_a_shape_is_recognised_by_its_tensors(changes: dict[str, Any]) -> None:
    config = replace(SAM_CONFIG, **{**PLAIN, **changes})
    with torch.device("meta"):
        state = Sam(config).state_dict()

    assert sam_config_of(state) == config


def test_a_file_without_some_of_sams_parts_is_refused(state: State, tmp_path: Path) -> None:
    encoder = {n.removeprefix("image_"): v for n, v in state.items() if n.startswith("image_")}
    torch.save({"model_state": encoder}, tmp_path / "unetr.pt")
    wanted = (
        r"holds no SAM: expected an image encoder, a prompt encoder and a mask decoder, "
        rf"found {len(encoder)} tensors, the first encoder\.pos_embed\. Choose SAM weights"
    )

    with pytest.raises(WeightsError, match=wanted):
        load_sam(tmp_path / "unetr.pt")


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ("mask_decoder.", r"2 are missing, the first mask_decoder\.transformer\S+weight\. Choose"),
        ("image_encoder.neck", r"one is missing: image_encoder\.neck\.0\.weight\. Choose"),
    ],
)
def test_missing_parts_are_named(part: str, missing: str, state: State) -> None:
    left = {n: v for n, v in state.items() if not n.startswith(part)}

    with pytest.raises(WeightsError, match=rf"no complete SAM: of the 7 tensors .*, {missing}"):
        sam_state(left)


@pytest.mark.parametrize(
    ("names", "found"),
    [([], "no tensor"), (["a"], "one tensor, a"), (["a", "b"], "2 tensors, the")],
)
def test_what_is_no_sam_at_all_is_told(names: list[str], found: str) -> None:
    with pytest.raises(WeightsError, match=rf"holds no SAM: expected .*, found {found}"):
        sam_state(dict.fromkeys(names, torch.ones(1)))


def test_tensors_that_do_not_fit_are_counted_and_named(state: State, tmp_path: Path) -> None:
    del state["image_encoder.blocks.2.norm1.bias"]
    state["mask_decoder.hf_token.weight"] = torch.ones(1, 32)
    state["image_encoder.blocks.2.mlp.lin1.weight"] = torch.ones(3, 32)
    torch.save(state, tmp_path / "sam.pth")

    with pytest.raises(WeightsError, match="do not fit this model") as caught:
        load_sam(tmp_path / "sam.pth")
    assert "1 missing (e.g. image_encoder.blocks.2.norm1.bias)" in str(caught.value)
    assert "1 too many (e.g. mask_decoder.hf_token.weight)" in str(caught.value)
    assert "1 of another shape (e.g. image_encoder.blocks.2.mlp.lin1.weight)" in str(caught.value)


def test_a_clip_is_no_sam_and_a_sam_no_clip(tmp_path: Path) -> None:
    save_clip(tiny_clip(), tmp_path / "clip.safetensors")
    save_sam(tiny_sam(), tmp_path / "sam.safetensors")

    with pytest.raises(WeightsError, match="holds no SAM"):
        load_sam(tmp_path / "clip.safetensors")
    with pytest.raises(WeightsError, match=r"does not say which CLIP.*ARCH:FILE"):
        load_clip(tmp_path / "sam.safetensors")


@pytest.mark.parametrize("changes", [{"embed_dim": 33}, {"decoder_heads": 5}, {"num_heads": 0}])
def test_a_header_that_describes_no_sam_is_refused(
    changes: dict[str, int], state: State, tmp_path: Path
) -> None:
    config = {"embed_dim": 32, "num_heads": 2, **changes}
    save_file(state, tmp_path / "sam.safetensors", metadata={"sam_config": json.dumps(config)})

    with pytest.raises(WeightsError, match=r"cannot be built|do not fit"):
        load_sam(tmp_path / "sam.safetensors")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ('{"depth": ', "cannot be read"),
        ("[3]", "cannot be read|newer version"),
        ('{"input_size": 500}', "cannot be read.*multiple of the patch size"),
        ('{"depth": 3, "rotary": true}', "newer version .rotary.*Update napari-clipsam"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(
    header: str, match: str, state: State, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "sam.safetensors", metadata={"sam_config": header})

    with pytest.raises(WeightsError, match=match):
        load_sam(tmp_path / "sam.safetensors")


# ---------------------------------------------------------------- saving


REFINED = {**STEM, "refiner_widths": (8, 16), "concept_refiner_widths": (8, 24)}


@pytest.mark.parametrize("changes", [{}, STEM, {**STEM, "global_attn_indexes": ()}, REFINED])
def test_a_sam_comes_back_with_what_its_tensors_do_not_show(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    sam = tiny_sam(3, **changes)
    save_sam(sam, tmp_path / "sam.safetensors", half=False)

    loaded = load_sam(tmp_path / "sam.safetensors")

    assert loaded.config == sam.config and sam.config.decoder_heads == 2
    assert loaded.identity == sam.identity
    assert same(dict(loaded.state_dict()), dict(sam.state_dict()))


def test_half_precision_halves_the_file_and_is_stable(tmp_path: Path) -> None:
    full, half, again = (tmp_path / f"{n}.safetensors" for n in ("full", "half", "again"))
    save_sam(tiny_sam(3), full, half=False)
    save_sam(tiny_sam(3), half)
    loaded = load_sam(half)
    save_sam(loaded, again)

    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert loaded.identity != tiny_sam(3).identity
    assert load_sam(again).identity == loaded.identity
    assert again.read_bytes() == half.read_bytes()


def test_a_value_outside_half_precision_is_kept(tmp_path: Path) -> None:
    sam = tiny_sam()
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight[0, 0] = 1e6
    save_sam(sam, tmp_path / "sam.safetensors")

    assert load_sam(tmp_path / "sam.safetensors").mask_decoder.iou_token.weight[0, 0] == 1e6


@pytest.mark.parametrize("input_size", [32, 96])
def test_a_sam_is_loaded_at_another_input_size(input_size: int, tmp_path: Path) -> None:
    save_sam(tiny_sam(), tmp_path / "sam.safetensors")

    sam = load_sam(tmp_path / "sam.safetensors", input_size=input_size)

    x = torch.zeros(1, 3, input_size, input_size)
    assert sam.config == replace(SAM_CONFIG, input_size=input_size)
    assert sam.head(sam.trunk(x, 2), 2).shape[-1] == input_size // 8
    assert sam.prompt_encoder.get_dense_pe().shape[-1] == input_size // 8


def test_an_input_size_off_the_patches_is_refused(tmp_path: Path) -> None:
    save_sam(tiny_sam(), tmp_path / "sam.safetensors")

    with pytest.raises(ConfigError, match="100 is not a multiple of the patch size 8"):
        load_sam(tmp_path / "sam.safetensors", input_size=100)


def test_a_clip_comes_back_with_its_configuration(tmp_path: Path) -> None:
    clip = tiny_clip(
        4,
        bpe_ids=tuple(range(49407)),
        words=frozenset({"nuclei", "cells", "blue"}),
        synonyms={"red cells": ("red cell", "erythrocyte")},
    )
    save_clip(clip, tmp_path / "clip.safetensors", half=False)

    loaded = load_clip(tmp_path / "clip.safetensors")

    assert loaded.config == clip.config
    assert loaded.identity == clip.identity
    texts = ["nuclei of red cells"]
    assert torch.equal(loaded.tokenize(texts), clip.tokenize(texts))
    torch.testing.assert_close(loaded.encode_texts(texts), clip.encode_texts(texts))


def test_the_same_clip_gives_the_same_file(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(100, 140)]
    for name in ("a", "b"):
        save_clip(tiny_clip(words=frozenset(words)), tmp_path / name)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    # A set's own order differs from process to process.
    assert json.loads(read_header(tmp_path / "a")["clip_config"])["words"] == words


def test_a_clip_of_another_make_is_not_written(tmp_path: Path) -> None:
    clip = build_clip(ClipConfig({**CLIP_ARCHITECTURE, "custom_text": True}, input_size=64))

    with pytest.raises(ConfigError, match="Load this one by its architecture and tag"):
        save_clip(clip, tmp_path / "clip.safetensors")
    assert not any(tmp_path.iterdir())


def test_a_clip_header_that_describes_no_clip_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"architecture": {"embed_dim": 16}, "input_size": 64})
    save_file({"a": torch.ones(1)}, tmp_path / "c.safetensors", metadata={"clip_config": header})

    with pytest.raises(WeightsError, match="describes a CLIP that cannot be built"):
        load_clip(tmp_path / "c.safetensors")


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "sam.safetensors"
    save_sam(tiny_sam(0), path)
    before = path.read_bytes()

    with full_disk(), pytest.raises(OutputError, match="Free some space"):
        save_sam(tiny_sam(1), path)

    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["sam.safetensors"]


# ---------------------------------------------------------------- the user's folder


def test_the_users_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path))
    assert user_folder() == tmp_path
    monkeypatch.delenv("NAPARI_CLIPSAM_HOME")
    assert user_folder().name == "napari-clipsam"
    assert not user_folder().is_relative_to(tmp_path)


@pytest.mark.parametrize("half", [True, False])
def test_a_clips_file_says_of_it_what_the_network_does(half: bool, tmp_path: Path) -> None:
    save_clip(tiny_clip(words=frozenset({"nuclei"})), tmp_path / "clip.safetensors", half)
    file = ClipFile(tmp_path / "clip.safetensors")
    known = file.identity, file.dim, file.config

    assert known == (file.clip.identity, file.clip.dim, file.clip.config)
    assert file.clip is file.clip
    assert len(file.vision_attention()) == len(file.clip.vision_attention()) > 0
    save_sam(tiny_sam(), tmp_path / "sam.safetensors")
    with pytest.raises(WeightsError, match="does not say which CLIP"):
        ClipFile(tmp_path / "sam.safetensors")
