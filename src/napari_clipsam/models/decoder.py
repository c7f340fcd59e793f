"""SAM's mask decoder over prompts that may each have an image embedding of their own.

Batching over images needs our own call of its parts, since the original repeats one image's
embedding for all prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from napari_clipsam.models.two_way import masks_of, two_way, upscale

if TYPE_CHECKING:
    from torch import Tensor

    from napari_clipsam.models.stock import MaskDecoder, PromptEncoder

__all__ = ["Decoded", "decode", "embed_masks", "embed_points", "full_precision"]


class Decoded(NamedTuple):
    """Output of the mask decoder for N prompts.

    ``logits`` (N, M, 4 G, 4 G) in units of log-odds, ``iou`` (N, M) the predicted quality,
    ``iou_token`` (N, C) the token the quality is read from.
    """

    logits: Tensor
    iou: Tensor
    iou_token: Tensor


def embed_points(prompt_encoder: PromptEncoder, coords: Tensor, labels: Tensor) -> Tensor:
    """Sparse prompt tokens of points and box corners.

    Parameters
    ----------
    coords : Tensor, shape (N, T, 2)
        (x, y) in model pixels.
    labels : Tensor of int, shape (N, T)
        -1 padding, 0 negative, 1 positive, 2 and 3 the corners of a box.

    Returns
    -------
    Tensor, shape (N, T, C)
    """
    size = prompt_encoder.input_image_size
    # Half precision would blur the position of a click.
    with full_precision(coords):
        positions = prompt_encoder.pe_layer.forward_with_coords(coords.float() + 0.5, size)
    kinds = [prompt_encoder.not_a_point_embed, *prompt_encoder.point_embeddings]
    table = torch.cat([kind.weight for kind in kinds])
    is_point = (labels >= 0)[..., None]
    return positions * is_point + table[labels + 1]


def embed_masks(prompt_encoder: PromptEncoder, masks: Tensor | None, count: int) -> Tensor:
    """Dense prompt (count, C, G, G) of masks (count, 1, 4 G, 4 G), or SAM's "no mask"."""
    if masks is not None:
        with full_precision(masks):
            return prompt_encoder.mask_downscaling(masks.float())
    height, width = prompt_encoder.image_embedding_size
    return prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(count, -1, height, width)


def decode(
    mask_decoder: MaskDecoder,
    embedding: Tensor,
    image_pe: Tensor,
    sparse: Tensor,
    dense: Tensor,
    multimask: bool | None,
) -> Decoded:
    """Decode prompts, each against its own image embedding.

    Parameters
    ----------
    embedding : Tensor, shape (N, C, G, G) or (1, C, G, G)
        One image embedding per prompt, or one for all.
    image_pe : Tensor, shape (1, C, G, G)
        ``prompt_encoder.get_dense_pe()``.
    sparse : Tensor, shape (N, T, C)
        Point, box and target tokens.
    dense : Tensor, shape (N, C, G, G) or (1, C, G, G)
        Mask prompts, or one for all; where the embedding is one for all too, work is shared.
    multimask : bool or None
        The three ambiguity-aware masks, the single one, or (None) all four.
    """
    wanted = slice(None) if multimask is None else slice(1, None) if multimask else slice(0, 1)
    with full_precision(embedding):
        tokens = torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight])
        tokens = torch.cat([tokens.expand(len(sparse), -1, -1), sparse], dim=1)
        source = embedding + dense
        hidden, image = two_way(
            mask_decoder.transformer, _positions_first(source), _positions_first(image_pe), tokens
        )
        mask_tokens = hidden[:, 1 : 1 + mask_decoder.num_mask_tokens]
        weights = torch.stack(
            [
                mask_decoder.output_hypernetworks_mlps[i](mask_tokens[:, i])
                for i in range(mask_decoder.num_mask_tokens)[wanted]
            ],
            dim=1,
        )
        upscaled = upscale(mask_decoder.output_upscaling, image)
        logits = masks_of(weights, upscaled, (source.shape[2], source.shape[3]))
        iou_token = hidden[:, 0]
        iou = mask_decoder.iou_prediction_head(iou_token)[:, wanted]
        return Decoded(logits, iou, iou_token)


def _positions_first(grid: Tensor) -> Tensor:
    """(N, C, G, G) to contiguous (N, G * G, C)."""
    return grid.flatten(2).transpose(1, 2).contiguous()


def full_precision(x: Tensor) -> torch.autocast:
    """No autocast, for what comes before and after the encoder's blocks.

    It is a few hundredths of the work, and decides more about a mask than the blocks do: the tokens
    that all blocks add to, the norms of the neck, and which of three masks is taken.
    """
    return torch.autocast(x.device.type, enabled=False)
