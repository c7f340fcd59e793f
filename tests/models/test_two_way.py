"""The decoder's arithmetic on tokens instead of pixels, against `segment_anything`'s modules."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_sam
from torch import Tensor

from napari_clipsam.models.decoder import decode
from napari_clipsam.models.two_way import masks_of, two_way, upscale

close = torch.testing.assert_close


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_tokens", [1, 5, 60])
@pytest.mark.parametrize("size", [(8, 8), (3, 5)])
def test_tokens_and_image_are_the_originals(n_tokens: int, size: tuple[int, int]) -> None:
    transformer = tiny_sam().mask_decoder.transformer
    image, pe = noise(2, 32, *size), noise(2, 32, *size, seed=1)
    tokens = noise(2, n_tokens, 32, seed=2)
    with torch.inference_mode():
        wanted = transformer(image, pe[:1].expand(2, -1, -1, -1), tokens)
        positions = image.flatten(2).transpose(1, 2)
        found = two_way(transformer, positions, pe[:1].flatten(2).transpose(1, 2), tokens)

    close(found[0], wanted[0], atol=1e-5, rtol=0)
    close(found[1], wanted[1], atol=1e-5, rtol=0)


def test_upscaled_masks_are_the_originals() -> None:
    upscaling = tiny_sam().mask_decoder.output_upscaling
    image, weights = noise(2, 32, 3, 5), noise(2, 3, 4, seed=1)
    with torch.inference_mode():
        wanted = torch.einsum("nkc,nchw->nkhw", weights, upscaling(image))
        found = masks_of(weights, upscale(upscaling, image.flatten(2).transpose(1, 2)), (3, 5))

    assert found.shape == (2, 3, 12, 20)
    close(found, wanted, atol=1e-5, rtol=0)


def test_one_image_and_dense_prompt_for_all_is_the_same_as_one_for_each() -> None:
    sam = tiny_sam()
    pe = sam.prompt_encoder.get_dense_pe()
    image, dense, sparse = noise(1, 32, 8, 8), noise(1, 32, 8, 8, seed=1), noise(4, 3, 32, seed=2)
    with torch.inference_mode():
        shared = decode(sam.mask_decoder, image, pe, sparse, dense, None)
        each = decode(
            sam.mask_decoder, image, pe, sparse, dense.expand(4, -1, -1, -1).contiguous(), None
        )

    for found, wanted in zip(shared, each, strict=True):
        close(found, wanted, atol=1e-5, rtol=0)


def test_no_prompt_gives_no_mask() -> None:
    sam = tiny_sam()
    pe, image = sam.prompt_encoder.get_dense_pe(), noise(1, 32, 8, 8)
    for source in (image, image[:0]):
        found = decode(sam.mask_decoder, source, pe, noise(0, 3, 32), noise(0, 32, 8, 8), None)
        assert found.logits.shape == (0, 4, 32, 32)
        assert found.iou.shape == (0, 4)


def test_gradients_are_the_originals() -> None:
    sam = tiny_sam()
    pe = sam.prompt_encoder.get_dense_pe()
    sparse, dense = noise(2, 3, 32, seed=2), noise(2, 32, 8, 8, seed=3)
    gradients = []
    for ours in (False, True):
        sam.zero_grad()
        image = noise(1, 32, 8, 8).requires_grad_()
        if ours:
            logits = decode(sam.mask_decoder, image, pe, sparse, dense, True).logits
        else:
            logits, _ = sam.mask_decoder(image, pe, sparse, dense, True)
        torch.sigmoid(logits).mean().backward()
        named = {k: p.grad for k, p in sam.mask_decoder.named_parameters() if p.grad is not None}
        gradients.append({**named, "image": image.grad})

    assert set(gradients[1]) >= {
        "image",
        "transformer.layers.0.cross_attn_token_to_image.k_proj.bias",
    }
    used = {k: v for k, v in gradients[0].items() if v.abs().max() > 0}
    for name, wanted in used.items():
        close(gradients[1][name], wanted, atol=1e-6, rtol=1e-3)
