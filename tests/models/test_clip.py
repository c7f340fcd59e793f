"""CLIP's two outputs against open_clip's own, and which towers are taken at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import CLIP, CustomTextCLIP, SimpleTokenizer
from tiny import CLIP_ARCHITECTURE, randomise, tiny_clip
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from napari_clipsam.errors import ConfigError, WeightsError, WordError
from napari_clipsam.models.clip import (
    AttentionWeights,
    Clip,
    ClipConfig,
    build_clip,
    check_open_clip,
    check_tag,
    load_open_clip,
    redundant_feature,
    split_words,
    templates,
)

close = torch.testing.assert_close
TEXTS = ["nuclei", "a photo of cell walls", "Don't panic!"]
TINY = "napari-clipsam-tiny"


def pixels(size: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- dense features


def test_without_surgery_the_cls_token_is_open_clips_image_feature() -> None:
    clip = tiny_clip(input_size=32, surgery_blocks=0)
    with torch.inference_mode():
        dense = clip.dense(pixels(32))

        close(dense[:, 0], clip.model.encode_image(pixels(32)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("surgery_blocks", [1, 2, 3, 6])
def test_surgery_leaves_the_cls_token_alone_and_changes_the_patches(surgery_blocks: int) -> None:
    plain = tiny_clip(surgery_blocks=0)
    clip = tiny_clip(surgery_blocks=surgery_blocks)
    with torch.inference_mode():
        before, after = plain.dense(pixels(64)), clip.dense(pixels(64))

    close(after[:, 0], before[:, 0], atol=1e-5, rtol=0)
    assert (after - before)[:, 1:].abs().amax(dim=-1).min() > 1e-3


def test_surgery_attends_from_v_to_v_beside_the_blocks() -> None:
    """Against torch's own attention layers, with v's weights in the places of q and k."""
    clip = tiny_clip(input_size=32, surgery_blocks=2)
    visual = clip.model.visual
    with torch.inference_mode():
        x = visual.conv1(pixels(32)).flatten(2).transpose(1, 2)
        cls = visual.class_embedding.expand(2, 1, -1)
        x = visual.ln_pre(torch.cat([cls, x], dim=1) + visual.positional_embedding)
        x = visual.transformer.resblocks[0](x)
        second = x
        for block in visual.transformer.resblocks[1:]:
            vv = deepcopy(block.attn)
            vv.in_proj_weight.copy_(vv.in_proj_weight[-32:].repeat(3, 1))
            vv.in_proj_bias.copy_(vv.in_proj_bias[-32:].repeat(3))
            h = block.ln_1(x)
            second = second + vv(h, h, h, need_weights=False)[0]
            x = block(x)
        wanted = visual.ln_post(torch.cat([x[:, :1], second[:, 1:]], dim=1)) @ visual.proj

        close(clip.dense(pixels(32)), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("input_size", [8, 32, 40, 128])
def test_any_input_size_gives_a_token_for_each_patch(input_size: int) -> None:
    clip = tiny_clip(input_size=input_size)
    with torch.inference_mode():
        dense = clip.dense(pixels(96))

    assert clip.grid == input_size // 8
    assert dense.shape == (2, 1 + clip.grid**2, clip.dim) == (2, 1 + clip.grid**2, 16)
    assert dense.isfinite().all()


def test_a_patch_is_described_by_its_own_token() -> None:
    clip = tiny_clip(surgery_blocks=1)
    spotted = pixels(64)
    spotted[..., 16:24, 40:48] += 3  # row 2, column 5 of 8 x 8
    with torch.inference_mode():
        change = (clip.dense(spotted) - clip.dense(pixels(64)))[:, 1:].norm(dim=-1)

    assert change.argmax(dim=1).tolist() == [2 * 8 + 5] * 2


def test_larger_planes_are_resized_like_an_image() -> None:
    clip = tiny_clip()
    flat = torch.ones(1, 3, 1, 1) * torch.tensor([0.3, -1.0, 2.0]).view(1, 3, 1, 1)
    with torch.inference_mode():
        small, large = (clip.dense(flat.expand(1, 3, s, s)) for s in (64, 200))

    close(large, small, atol=1e-5, rtol=0)


def test_what_is_finer_than_its_pixels_is_averaged_not_picked() -> None:
    clip = tiny_clip()
    averaged = resize(pixels(192), [64, 64], antialias=True)
    with torch.inference_mode():
        close(clip.dense(pixels(192)), clip.dense(averaged), atol=1e-5, rtol=0)


class Doubled:
    """Takes the place of block 1's attention."""

    def weights(self, block: int, frozen: AttentionWeights) -> AttentionWeights:
        return AttentionWeights(*(2 * w for w in frozen)) if block == 1 else frozen


@pytest.mark.parametrize("surgery_blocks", [0, 1, 2])
def test_tuned_weights_act_as_if_they_were_the_towers_own(surgery_blocks: int) -> None:
    clip = tiny_clip(surgery_blocks=surgery_blocks)
    with torch.no_grad():
        tuned = clip.dense(pixels(64), Doubled())
        attention = clip.model.visual.transformer.resblocks[1].attn
        for weight in attention.parameters():
            weight.mul_(2)

        close(tuned, clip.dense(pixels(64)), atol=1e-5, rtol=0)


def test_frozen_attention_weights_are_listed_by_block() -> None:
    clip = tiny_clip()
    blocks = clip.model.visual.transformer.resblocks

    weights = clip.vision_attention()

    assert len(weights) == 3
    assert weights[2].in_weight is blocks[2].attn.in_proj_weight
    assert weights[0].out_bias is blocks[0].attn.out_proj.bias


@pytest.mark.parametrize(("size", "advice"), [(60, "Choose 56"), (4, "Choose 8"), (0, "Choose 8")])
def test_an_input_size_off_the_patches_is_refused(size: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        tiny_clip(input_size=size)


# ---------------------------------------------------------------- text


def test_text_features_are_open_clips() -> None:
    clip = tiny_clip()
    ids = open_clip.tokenize(TEXTS)

    assert torch.equal(clip.tokenize(TEXTS), ids)
    close(clip.encode_texts(TEXTS), clip.model.encode_text(ids), atol=1e-6, rtol=0)


def test_the_templates_are_surgerys_85() -> None:
    found = templates()

    assert len(found) == len(set(found)) == 85
    assert all(t.count("{}") == 1 for t in found)
    assert "a photo of many {}." in found and "this is one {} in the scene." in found


def test_the_redundant_feature_is_the_direction_the_templates_share() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 0.1]])

    close(redundant_feature(features), torch.tensor([0.5, 0.5]).sqrt())
    close(tiny_clip().redundant().norm(), torch.tensor(1.0))


def test_the_redundant_feature_serves_training_whatever_asked_first() -> None:
    clip = tiny_clip()
    with torch.inference_mode():
        clip.redundant()
    weight = torch.ones(16, requires_grad=True)

    (clip.redundant() * weight).sum().backward()

    assert weight.grad is not None and torch.equal(weight.grad, clip.redundant())


def test_a_concept_is_the_mean_of_its_synonyms() -> None:
    clip = tiny_clip(synonyms={"red cells": ("red cell", "erythrocyte")})

    close(
        clip.concept("  Red   CELLS "),
        clip.encode_texts(["red cell", "erythrocyte"]).mean(dim=0),
    )
    close(clip.concept("Nuclei"), clip.encode_texts(["nuclei"])[0])


@pytest.mark.parametrize("word", ["", "  \t"])
def test_an_empty_word_is_refused(word: str) -> None:
    with pytest.raises(WordError, match="Type what to look for"):
        tiny_clip().concept(word)


def test_a_closed_vocabulary_names_the_words_it_never_saw() -> None:
    closed = tiny_clip(words=frozenset({"nuclei", "blue"}))

    assert closed.unknown_words("Blue nuclei, golgi-vesicles!") == ["golgi", "vesicles"]
    assert tiny_clip().unknown_words("golgi") == []


def test_words_are_split_at_anything_but_letters_and_digits() -> None:
    assert split_words("DAPI-stained  nuclei (H2B)") == ["dapi", "stained", "nuclei", "h2b"]


@pytest.fixture
def cut() -> tuple[Clip, Clip]:
    """A CLIP, and the same one with a vocabulary cut to what TEXTS needs."""
    full = tiny_clip()
    tokenizer = SimpleTokenizer()
    ids = {tokenizer.sot_token_id, tokenizer.eot_token_id}
    for text in TEXTS:
        ids.update(tokenizer.encode(text))
    kept = sorted(ids)
    architecture = deepcopy(CLIP_ARCHITECTURE)
    architecture["text_cfg"]["vocab_size"] = len(kept) + 1
    config = ClipConfig(architecture, input_size=64, surgery_blocks=2, bpe_ids=tuple(kept))
    small = build_clip(config)
    state = full.model.state_dict()
    table = state["token_embedding.weight"]
    small.model.load_state_dict({**state, "token_embedding.weight": table[[0, *kept]]})
    return full, small


def test_a_cut_vocabulary_says_the_same(cut: tuple[Clip, Clip]) -> None:
    full, small = cut

    close(small.encode_texts(TEXTS), full.encode_texts(TEXTS), atol=1e-6, rtol=0)


def test_a_cut_vocabulary_pads_with_zeros_and_ends_with_the_highest_id(
    cut: tuple[Clip, Clip],
) -> None:
    full, small = cut
    wanted, found = full.tokenize(TEXTS), small.tokenize(TEXTS)
    last = found.max(dim=1).values

    assert torch.equal(found == 0, wanted == 0)
    assert torch.equal(found.argmax(dim=1), wanted.argmax(dim=1))
    assert last.tolist() == [len(small.config.bpe_ids)] * 3


def test_pieces_outside_a_cut_vocabulary_become_zero(cut: tuple[Clip, Clip]) -> None:
    _, small = cut
    known, unknown = small.tokenize(["nuclei", "golgi"])

    assert (known[1] != 0) and (unknown[1] == 0)
    assert unknown.max() == len(small.config.bpe_ids)


def test_a_long_text_is_cut_to_the_context() -> None:
    architecture = deepcopy(CLIP_ARCHITECTURE)
    architecture["text_cfg"]["context_length"] = 6
    clip = build_clip(ClipConfig(architecture, input_size=64))
    ids = clip.tokenize(["one two three four five six seven"])

    assert ids.shape == (1, 6) and ids[0, -1] == SimpleTokenizer().eot_token_id


# ---------------------------------------------------------------- open_clip's models


def register(folder: Path, **models: dict[str, Any]) -> None:
    """Let open_clip know architectures under the names TINY-..."""
    for name, description in models.items():
        (folder / f"{TINY}-{name}.json").write_text(json.dumps(description))
    open_clip.add_model_config(folder)


def timm_model(name: str, pool: str) -> dict[str, Any]:
    vision = {"timm_model_name": name, "timm_pool": pool, "timm_proj": "linear", "image_size": 160}
    return {
        "embed_dim": 16,
        "vision_cfg": vision,
        "text_cfg": CLIP_ARCHITECTURE["text_cfg"],
        "custom_text": True,
    }


@pytest.fixture(scope="module", autouse=True)
def _models(tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = {**CLIP_ARCHITECTURE, "quick_gelu": False}
    vision = CLIP_ARCHITECTURE["vision_cfg"]
    register(
        tmp_path_factory.mktemp("configs"),
        vit=plain,
        quickgelu=CLIP_ARCHITECTURE,
        custom={**plain, "custom_text": True, "init_logit_bias": -10},
        resnet={**plain, "vision_cfg": {**vision, "layers": [1, 1, 1, 1], "width": 8}},
        pooled={**plain, "vision_cfg": {**vision, "attentional_pool": True}},
        normed={**plain, "vision_cfg": {**vision, "block_type": "custom", "qk_norm": True}},
        token=timm_model("test_vit", "token"),
        average=timm_model("test_vit", "avg"),
        registers=timm_model("test_vit2", "avg"),
        mapped=timm_model("test_vit3", "map"),
        relative=timm_model("test_vit_relpos", "avg"),  # no tokens but those of patches
        convnext=timm_model("test_convnext", "avg"),
        newer={**plain, "vision_cfg": {"timm_model_name": "no_such_tower", "image_size": 32}},
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """State dict of `tiny_clip`."""
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "state_dict": tiny_clip(5).model.state_dict()}, path)
    return path


def test_a_local_file_fills_a_known_architecture(weights: Path) -> None:
    clip = load_open_clip(f"{TINY}-quickgelu", str(weights), input_size=64)
    wanted = tiny_clip(5)

    assert clip.identity == wanted.identity
    assert clip.config == replace(wanted.config, surgery_blocks=6)
    close(clip.encode_texts(TEXTS), wanted.encode_texts(TEXTS))


def test_data_parallel_names_and_openais_bookkeeping_are_no_hindrance(tmp_path: Path) -> None:
    state = dict(tiny_clip(5).model.state_dict())
    state["input_resolution"] = torch.tensor(32)
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "clip.pt")

    clip = load_open_clip(f"{TINY}-vit", str(tmp_path / "clip.pt"), input_size=64)

    assert clip.identity == tiny_clip(5).identity


def test_loading_draws_no_random_numbers(weights: Path) -> None:
    torch.manual_seed(7)
    load_open_clip(f"{TINY}-vit", str(weights), input_size=64)
    found = torch.rand(1)

    assert found == torch.rand(1, generator=torch.Generator().manual_seed(7))


def test_the_tag_tells_which_activation_its_weights_need(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"quick_gelu": True})

    clip = load_open_clip(f"{TINY}-vit", weights, "meta", input_size=64)

    assert clip.config.architecture["quick_gelu"] is True
    close(clip.dense(pixels(64)), tiny_clip(5, surgery_blocks=6).dense(pixels(64)))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_program_as_openai_publishes_them_gives_its_weights(tmp_path: Path) -> None:
    """Half precision, with what OpenAI keeps beside the weights, as TorchScript."""
    model = tiny_clip(5, input_size=32).model.half()
    model.register_buffer("input_resolution", torch.tensor(32))
    torch.jit.script(model).save(tmp_path / "clip.pt")
    wanted = deepcopy(model).float().state_dict()

    clip = load_open_clip(f"{TINY}-quickgelu", tmp_path / "clip.pt", input_size=32)

    found = clip.model.state_dict()
    assert set(found) == set(wanted) - {"input_resolution"}
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_a_file_of_an_older_make_fills_a_custom_text_tower(tmp_path: Path) -> None:
    """Names without a text tower of their own, and a scale with a dimension too many."""
    model = build_clip(ClipConfig({**CLIP_ARCHITECTURE, "quick_gelu": False}, 32)).model
    randomise(model, 3)
    state = {**model.state_dict(), "logit_bias": torch.tensor([-10.0])}
    state["logit_scale"] = state["logit_scale"].reshape(1)
    state["transformer.embeddings.position_ids"] = torch.arange(77)
    torch.save(state, tmp_path / "old.pt")

    clip = load_open_clip(f"{TINY}-custom", tmp_path / "old.pt", input_size=32)

    close(clip.encode_texts(TEXTS), model.eval().encode_text(open_clip.tokenize(TEXTS)))


def test_a_custom_text_tower_is_open_clips(tmp_path: Path) -> None:
    description = {**CLIP_ARCHITECTURE, "quick_gelu": False, "init_logit_bias": -10}
    model = CustomTextCLIP(**deepcopy(description))
    torch.save(model.state_dict(), tmp_path / "custom.pt")

    clip = load_open_clip(f"{TINY}-custom", str(tmp_path / "custom.pt"), input_size=32)

    ids = open_clip.tokenize(TEXTS)
    close(clip.encode_texts(TEXTS), model.eval().encode_text(ids), atol=1e-6, rtol=0)


@pytest.mark.parametrize("refuse", [check_open_clip, lambda name: check_tag(name, "openai")])
def test_an_unknown_architecture_is_refused(refuse: Callable[[str], object]) -> None:
    with pytest.raises(WeightsError, match=r"no architecture 'ViT-Z-99'.*list_models"):
        refuse("ViT-Z-99")


def test_an_unknown_tag_is_refused_with_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"no weights 'opanai' for ViT-B-16.*openai, "):
        check_tag("ViT-B-16", "opanai")


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"There is no file no/such\.pt"):
        load_open_clip(f"{TINY}-vit", "no/such.pt")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    architecture = deepcopy(CLIP_ARCHITECTURE)
    architecture["text_cfg"]["layers"] = 2
    torch.save(build_clip(ClipConfig(architecture, 32)).model.state_dict(), tmp_path / "other.pt")

    with pytest.raises(WeightsError, match="Choose the architecture the file was made for"):
        load_open_clip(f"{TINY}-vit", str(tmp_path / "other.pt"))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("resnet", "convolutional tower without patch tokens"),
        ("convnext", "no patch tokens"),
        ("pooled", "pools its tokens by attention"),
        ("normed", "attention of its own kind"),
        ("newer", "cannot be built here"),
    ],
)
def test_towers_without_dense_features_are_refused(name: str, match: str) -> None:
    with pytest.raises(WeightsError, match=rf"{match}.*Choose .*ViT-B-16"):
        check_open_clip(f"{TINY}-{name}")


@pytest.mark.parametrize("name", ["token", "average", "registers", "mapped", "relative"])
@pytest.mark.parametrize("input_size", [160, 64])
def test_towers_of_timm_give_plain_dense_features(
    name: str, input_size: int, tmp_path: Path
) -> None:
    description = open_clip.get_model_config(f"{TINY}-{name}")
    description.pop("custom_text")
    model = CustomTextCLIP(**description).eval()
    randomise(model, 2, spread=0.1)
    torch.save(model.state_dict(), tmp_path / "timm.pt")

    clip = load_open_clip(f"{TINY}-{name}", str(tmp_path / "timm.pt"), input_size=input_size)
    with torch.inference_mode():
        dense = clip.dense(pixels(input_size))
        image = clip.model.encode_image(pixels(input_size))

    side = input_size // 16
    assert clip.grid == side and dense.shape == (2, 1 + side**2, 16)
    close(dense[:, 0], image, atol=1e-5, rtol=0)
    assert clip.vision_attention() == []


def test_a_patch_of_a_timm_tower_is_described_by_its_own_token(tmp_path: Path) -> None:
    architecture = timm_model("test_vit2", "avg")
    clip = build_clip(ClipConfig(architecture, input_size=160))
    randomise(clip.model, 2, spread=0.1)
    spotted = pixels(160)
    spotted[..., 32:48, 80:96] += 3  # row 2, column 5 of 10 x 10
    with torch.inference_mode():
        change = (clip.dense(spotted) - clip.dense(pixels(160)))[:, 1:].norm(dim=-1)

    assert change.argmax(dim=1).tolist() == [2 * 10 + 5] * 2


def test_patches_of_a_timm_tower_are_normed_once_where_it_norms_tokens() -> None:
    clip = build_clip(ClipConfig(timm_model("test_vit", "token"), input_size=160))
    randomise(clip.model, 2, spread=0.1)
    visual = clip.model.visual
    with torch.inference_mode():
        (last,) = visual.trunk.forward_intermediates(
            pixels(160), indices=1, norm=True, output_fmt="NLC", intermediates_only=True
        )

        close(clip.dense(pixels(160))[:, 1:], visual.head(last), atol=1e-5, rtol=0)


def test_towers_of_timm_can_be_ended_before_any_block() -> None:
    clip = build_clip(ClipConfig(timm_model("test_vit", "token"), input_size=160))
    blocks = len(clip.model.visual.trunk.blocks)
    for allowed in range(blocks):
        left = list(range(allowed))
        with torch.inference_mode(), pytest.raises(IndexError):
            clip.dense(pixels(160), check=left.pop)

    calls: list[int] = []
    with torch.inference_mode():
        checked = clip.dense(pixels(160), check=lambda: calls.append(1))
        close(checked, clip.dense(pixels(160)), atol=0, rtol=0)
    assert len(calls) == blocks > 1


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_a_single_patch_is_its_own_average(name: str) -> None:
    clip = build_clip(ClipConfig(timm_model(name, "avg"), input_size=16))
    randomise(clip.model, 2, spread=0.1)
    with torch.inference_mode():
        dense = clip.dense(pixels(16))

    close(dense[:, 1], dense[:, 0], atol=1e-5, rtol=0)


def test_a_tower_of_one_size_alone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = build_clip(ClipConfig(timm_model("test_vit", "token"), input_size=160))
    monkeypatch.delattr(type(clip.model.visual.trunk), "set_input_size")

    with pytest.raises(ConfigError, match="takes images of 160 pixels alone"):
        Clip(clip.model, replace(clip.config, input_size=64))


def test_the_plain_architecture_builds_open_clips_own_class() -> None:
    assert type(tiny_clip().model) is CLIP
