"""The layers' arithmetic against the formulas of the method, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_clip, tiny_sam
from torch import Tensor, nn

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.lora import (
    ClipAttentionTuning,
    ClipLoraTuning,
    LoraLayer,
    LowRank,
)
from napari_clipsam.adapters.regular import RegularAdapter
from napari_clipsam.adapters.semantic import GuidedLayer, SemanticAdapter, conditioning
from napari_clipsam.models.attention import Windows, grid_attention
from napari_clipsam.semantics import Signals, make_signals

DIM, CLIP_DIM, GRID = 32, 16, 8

close = torch.testing.assert_close


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def fixed_weights() -> None:
    torch.manual_seed(0)


@pytest.fixture
def signals() -> Signals:
    """Two pairs of 4 x 4 patches."""
    return make_signals(random(2, 17, CLIP_DIM), F.normalize(random(2, CLIP_DIM, seed=1)))


def paper(**changes: object) -> AdapterConfig:
    return AdapterConfig(n_conditioned=1, **{"init": "paper", **changes})


# ---------------------------------------------------------------- regular


def bottleneck(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.fc2(F.gelu(layer.fc1(x)))


def test_the_papers_regular_adapter_has_an_inner_skip() -> None:
    layer, a = RegularAdapter(DIM, paper()), random(1, GRID, GRID, DIM)
    close(layer(a), a + 0.5 * (a + bottleneck(layer, a)))


def test_ours_has_none_and_starts_as_nothing() -> None:
    layer, a = RegularAdapter(DIM, paper(init="zero")), random(1, GRID, GRID, DIM)
    assert torch.equal(layer(a), a)
    nn.init.normal_(layer.fc2.weight)
    close(layer(a), a + 0.5 * bottleneck(layer, a))


def test_reduction_and_scale_are_those_asked_for() -> None:
    layer, a = RegularAdapter(DIM, paper(reduction=8, scale=2.0)), random(1, GRID, GRID, DIM)
    assert layer.fc1.weight.shape == (DIM // 8, DIM)
    close(layer(a), a + 2.0 * (a + bottleneck(layer, a)))


# ---------------------------------------------------------------- semantic


def test_conditioning_adds_the_similarity_to_every_channel(signals: Signals) -> None:
    found = conditioning(signals)
    for channel in range(CLIP_DIM):
        close(found[..., channel], signals.vision[..., channel] + signals.similarity[..., 0])


def test_the_semantic_adapter_is_the_methods_formula(signals: Signals) -> None:
    layer, h = SemanticAdapter(DIM, CLIP_DIM, paper()), random(2, GRID, GRID, DIM)
    projected = layer.vision_proj(conditioning(signals))[:, 1:]
    patches = projected.permute(0, 2, 1).reshape(2, DIM, 4, 4)
    vision = F.interpolate(patches, size=(GRID, GRID), mode="bilinear", align_corners=False)
    text = F.gelu(layer.text_proj(signals.text))[:, None, None, :]
    expected = 0.5 * bottleneck(layer, h + vision.permute(0, 2, 3, 1) + text)
    close(layer(h, layer.injection(signals, GRID)), expected, atol=1e-6, rtol=1e-5)


def test_without_signals_the_semantic_adapter_sees_the_tokens_alone() -> None:
    layer, h = SemanticAdapter(DIM, CLIP_DIM, paper()), random(2, GRID, GRID, DIM)
    close(layer(h, None), 0.5 * bottleneck(layer, h))


def test_the_layer_stands_after_attention_and_beside_the_mlp(signals: Signals) -> None:
    block = tiny_sam().image_encoder.blocks[1]
    layer = GuidedLayer(DIM, CLIP_DIM, paper())
    bound = layer.bind(signals, GRID)
    x = random(2, GRID, GRID, DIM)
    whole = Windows()
    close(bound.attention(block.attn, x, whole), layer.regular(grid_attention(block.attn, x)))
    extra = layer.semantic(x, layer.semantic.injection(signals, GRID))
    close(bound.mlp(block.mlp, x), block.mlp(x) + extra)


@pytest.mark.parametrize("kind", [GuidedLayer, LoraLayer])
def test_where_windows_are_padded_is_handed_on(kind: type, signals: Signals) -> None:
    for before in (True, False):
        layer = kind(DIM, CLIP_DIM, paper(pad_before_norm=before))
        assert layer.bind(signals, GRID).pad_before_norm is before


def test_padding_before_the_norm_changes_the_windowed_blocks(signals: Signals) -> None:
    """8 is not a multiple of 3, so windows hold padding: LN(0) instead of 0."""
    sam, one = tiny_sam(), random(2, GRID, GRID, DIM)
    found = []
    for before in (True, False):
        torch.manual_seed(0)
        layer = GuidedLayer(DIM, CLIP_DIM, paper(pad_before_norm=before))
        found.append(sam.head(one, 2, [layer.bind(signals, GRID)]))
    assert (found[0] - found[1]).abs().max() > 1e-3


# ---------------------------------------------------------------- low rank


def test_low_rank_is_a_matrix_of_its_rank_and_zero_at_first() -> None:
    update, x = LowRank(6, 10, rank=2), random(3, 6)
    assert update.matrix().shape == (10, 6) and not update.matrix().any()
    nn.init.normal_(update.up)
    assert torch.linalg.matrix_rank(update.matrix()) == 2
    close(update(x), x @ update.matrix().T)


def test_lora_is_attention_with_updated_q_and_v() -> None:
    attn = tiny_sam().image_encoder.blocks[1].attn
    layer, x = LoraLayer(DIM, CLIP_DIM, paper(rank=3)), random(2, GRID, GRID, DIM)
    nn.init.normal_(layer.q.up)
    nn.init.normal_(layer.v.up)
    found = layer.attention(attn, x, Windows())
    before = attn.qkv.weight.detach().clone()
    with torch.no_grad():
        attn.qkv.weight[:DIM] += layer.q.matrix()
        attn.qkv.weight[2 * DIM :] += layer.v.matrix()
        close(found, attn(x), atol=1e-5, rtol=1e-4)
        assert torch.equal(attn.qkv.weight[DIM : 2 * DIM], before[DIM : 2 * DIM])


@pytest.mark.parametrize("windows", [Windows(), Windows(3)])
def test_lora_keeps_the_precision_that_attention_runs_in(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens come in float32 from the norm; what attends is bf16, as without the layer."""
    attn = tiny_sam().image_encoder.blocks[1].attn
    layer, x = LoraLayer(DIM, CLIP_DIM, paper(rank=3)), random(2, GRID, GRID, DIM)
    attend, seen = F.scaled_dot_product_attention, set()

    def watched(q: Tensor, k: Tensor, v: Tensor, **more: object) -> Tensor:
        seen.update((q.dtype, k.dtype, v.dtype))
        return attend(q, k, v, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer.attention(attn, x, windows)
    assert seen == {torch.bfloat16}


# ---------------------------------------------------------------- CLIP's own attention


@pytest.mark.parametrize("tuning", ["lora", "attention"])
def test_tuning_starts_as_clip_itself_and_then_changes_it_alone(tuning: str) -> None:
    clip, pixels = tiny_clip(), random(1, 3, 64, 64)
    frozen = clip.vision_attention()
    layer = ClipLoraTuning(frozen, 2) if tuning == "lora" else ClipAttentionTuning(frozen)
    with torch.no_grad():
        base = clip.dense(pixels)
        assert torch.equal(clip.dense(pixels, layer), base)
        for parameter in layer.parameters():
            parameter += 0.1 * random(*parameter.shape)
        assert (clip.dense(pixels, layer) - base).abs().max() > 1e-2
        assert torch.equal(clip.dense(pixels), base)


@pytest.mark.parametrize("tuning", ["lora", "attention"])
def test_gradients_reach_all_of_clips_tuning(tuning: str) -> None:
    clip = tiny_clip().requires_grad_(False)
    frozen = clip.vision_attention()
    layer = ClipLoraTuning(frozen, 2) if tuning == "lora" else ClipAttentionTuning(frozen)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * random(*parameter.shape)
    clip.dense(random(1, 3, 64, 64), layer).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())


def test_tuned_attention_is_that_of_clip_with_those_weights() -> None:
    clip, other, pixels = tiny_clip(seed=0), tiny_clip(seed=1), random(1, 3, 64, 64)
    layer = ClipAttentionTuning(other.vision_attention())
    with torch.no_grad():
        tuned = clip.dense(pixels, layer)
        for block, weights in zip(
            clip.model.visual.transformer.resblocks, other.vision_attention(), strict=True
        ):
            block.attn.in_proj_weight.copy_(weights.in_weight)
            block.attn.in_proj_bias.copy_(weights.in_bias)
            block.attn.out_proj.weight.copy_(weights.out_weight)
            block.attn.out_proj.bias.copy_(weights.out_bias)
        close(tuned, clip.dense(pixels))
