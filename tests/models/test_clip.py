"""CLIP's two outputs against open_clip's own, and its words."""

from __future__ import annotations

from copy import deepcopy

import open_clip
import pytest
import torch
from open_clip import CLIP, SimpleTokenizer
from tiny import CLIP_ARCHITECTURE, tiny_clip
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from napari_clipsam.errors import ConfigError, WordError
from napari_clipsam.models.clip import (
    AttentionWeights,
    Clip,
    ClipConfig,
    build_clip,
    redundant_feature,
    split_words,
    templates,
)

close = torch.testing.assert_close
TEXTS = ["nuclei", "a photo of cell walls", "Don't panic!"]


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


def test_the_plain_architecture_builds_open_clips_own_class() -> None:
    assert type(tiny_clip().model) is CLIP
