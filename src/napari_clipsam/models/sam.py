"""SAM with its encoder split into trunk and head.

Built from `segment_anything`'s own classes. The *trunk* (patch embedding and the first blocks)
depends on the image alone; the *head* (the remaining blocks and the neck) may be conditioned by
block adapters that are passed in, never patched in. Autocast reaches the blocks alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from napari_clipsam.errors import ConfigError
from napari_clipsam.models.attention import Windows, grid_attention
from napari_clipsam.models.decoder import full_precision
from napari_clipsam.models.identity import tensor_identity
from napari_clipsam.models.refiner import ConceptRefiner, MaskRefiner
from napari_clipsam.models.stem import PyramidStem
from napari_clipsam.models.stock import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segment_anything.modeling.image_encoder import Block
    from torch import Tensor

__all__ = [
    "PIXEL_MEAN",
    "PIXEL_STD",
    "SAM_CONFIGS",
    "BlockAdapter",
    "RunBlock",
    "Sam",
    "SamConfig",
    "build_decoder",
    "default_split",
    "normalise_pixels",
    "resize_positions",
    "run_block",
]

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class SamConfig:
    """Shape of a SAM.

    Attributes
    ----------
    embed_dim, depth, num_heads : int
        Width, blocks and heads of the encoder's transformer.
    global_attn_indexes : tuple of int
        Blocks with global instead of windowed attention.
    input_size : int
        Side of the square input, pixels.
    patch_size : int
        Pixels per token; 8 with the pyramid stem.
    window_size : int
        Side of an attention window, tokens.
    out_chans : int
        Channels of the image embedding and width of the decoder.
    decoder_mlp_dim, decoder_heads, iou_hidden_dim, mask_in_chans : int
        Sizes inside the mask decoder and the prompt encoder.
    stem_widths, stem_blocks : tuple of int
        Of the `PyramidStem`; empty for SAM's patch embedding.
    refiner_widths, concept_refiner_widths : tuple of int
        Of the `MaskRefiner` and the `ConceptRefiner`; empty for none, as SAM has.
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    input_size: int = 1024
    patch_size: int = 16
    window_size: int = 14
    out_chans: int = 256
    decoder_mlp_dim: int = 2048
    decoder_heads: int = 8
    iou_hidden_dim: int = 256
    mask_in_chans: int = 16
    stem_widths: tuple[int, ...] = ()
    stem_blocks: tuple[int, ...] = ()
    refiner_widths: tuple[int, ...] = ()
    concept_refiner_widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.input_size % self.patch_size:
            raise ConfigError(
                f"The input size {self.input_size} is not a multiple of the patch size "
                f"{self.patch_size}. Choose 512, 768 or 1024."
            )
        if self.stem_widths and self.patch_size != PyramidStem.stride:
            raise ConfigError(
                f"The pyramid stem has stride {PyramidStem.stride}, not {self.patch_size}. "
                f"Set patch_size={PyramidStem.stride}."
            )

    @property
    def grid(self) -> int:
        """Tokens along one side of the input."""
        return self.input_size // self.patch_size

    @property
    def least_object(self) -> int:
        """Side, in model pixels, below which an object is looked at from closer; 0 for never.

        Six tokens of the starter: it outlines smaller ones badly, and encodes a part in less than a
        second. SAM's own encoders take several on a CPU.
        """
        return 3 * self.input_size // 32 if self.stem_widths else 0


SAM_CONFIGS: dict[str, SamConfig] = {
    "vit_b": SamConfig(),
    "vit_l": SamConfig(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamConfig(1280, 32, 16, (7, 15, 23, 31)),
}


#: A block, its tokens and its adapter, if any, to the tokens of the next one.
RunBlock = Callable[["Block", "Tensor", "BlockAdapter | None"], "Tensor"]


class BlockAdapter(Protocol):
    """What may take part in one encoder block.

    `pad_before_norm` says that windows are filled up before the first layer norm, as the paper's
    released blocks do, so that padding tokens are LN(0) instead of 0.
    """

    pad_before_norm: bool

    def attention(self, attn: nn.Module, x: Tensor, windows: Windows) -> Tensor:
        """Attention of normalised tokens (B, H, W, C), which see as far as their window."""
        ...

    def mlp(self, mlp: nn.Module, h: Tensor) -> Tensor:
        """What is added to the tokens for their second norm `h`, (B, H, W, C)."""
        ...

    def part(self, cut: Callable[[Tensor], Tensor]) -> BlockAdapter:
        """The same for a part of the grid that `cut` takes of any (B, H, W, ...)."""
        ...


class Sam(nn.Module):
    """Segment Anything with a split encoder.

    Parameters
    ----------
    config : SamConfig
        Its shape. State dict names are those of `segment_anything`.
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoderViT(
            depth=config.depth,
            embed_dim=config.embed_dim,
            img_size=config.input_size,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_heads=config.num_heads,
            patch_size=config.patch_size,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=config.global_attn_indexes,
            window_size=config.window_size,
            out_chans=config.out_chans,
        )
        if config.stem_widths:
            self.image_encoder.patch_embed = PyramidStem(
                config.embed_dim, config.stem_widths, config.stem_blocks
            )
            # The stem's convolutions know where the border is; a table would only cost space.
            self.image_encoder.pos_embed = None
        # Small, and drawing normal numbers without storage imports torch's compiler: a second.
        with torch.device("cpu"):
            self.prompt_encoder, self.mask_decoder = build_decoder(config)
        self.refiner = MaskRefiner(config.refiner_widths) if config.refiner_widths else None
        widths = config.concept_refiner_widths
        self.concept_refiner = ConceptRefiner(widths) if widths else None
        self._identity: str | None = None
        self.eval()

    @property
    def identity(self) -> str:
        """Hash of the encoder's tensors; tells one set of weights from another."""
        if self._identity is None:
            self._identity = tensor_identity(self.image_encoder.state_dict())
        return self._identity

    def trunk(
        self,
        x: Tensor,
        split: int,
        check: Callable[[], None] | None = None,
        run: RunBlock | None = None,
    ) -> Tensor:
        """Run the part of the encoder that depends on the image alone.

        Parameters
        ----------
        x : Tensor, shape (B, 3, S, S)
            Pixels after `normalise_pixels`.
        split : int
            Number of blocks in the trunk.
        check : callable, optional
            Called before each layer of a pyramid stem, and before attention and MLP of each block;
            what it raises ends the run.
        run : callable, optional
            `run_block` compiled: what is checked then is each block as a whole.

        Returns
        -------
        Tensor, shape (B, G, G, C)
        """
        encoder, embed = self.image_encoder, self.image_encoder.patch_embed
        if isinstance(embed, PyramidStem):
            embed = partial(embed, check=check)
        with full_precision(x):
            # Convolutions run faster so, and what comes out is needed with channels last anyway.
            tokens = embed(x.contiguous(memory_format=torch.channels_last))
        if encoder.pos_embed is not None:
            tokens = tokens + encoder.pos_embed
        run = run or partial(run_block, check=check)
        for block in encoder.blocks[:split]:
            if check is not None:
                check()
            tokens = run(block, tokens, None)
        return tokens

    def head(
        self,
        tokens: Tensor,
        split: int,
        adapters: Sequence[BlockAdapter | None] | None = None,
        check: Callable[[], None] | None = None,
        recompute: bool = False,
        run: RunBlock | None = None,
    ) -> Tensor:
        """Run the blocks from `split` on and the neck.

        Parameters
        ----------
        tokens : Tensor, shape (B, G, G, C)
            What `trunk` returned for the same `split`.
        adapters : sequence, optional
            One per block of the head; None runs the block as it is.
        check : callable, optional
            Called before attention and MLP of each block, and before the neck; what it raises ends
            the run.
        recompute : bool
            For gradients keep the input of each block only and run it again: a third more work, a
            fraction of the memory.
        run : callable, optional
            As for `trunk`.

        Returns
        -------
        Tensor, shape (B, out_chans, G, G)
            The image embedding.
        """
        run = run or partial(run_block, check=None if recompute else check)
        blocks = self.image_encoder.blocks[split:]
        for block, adapter in zip(blocks, adapters or [None] * len(blocks), strict=True):
            if check is not None:
                check()
            if recompute:
                tokens = checkpoint(run, block, tokens, adapter, use_reentrant=False)
            else:
                tokens = run(block, tokens, adapter)
        if check is not None:
            check()
        with full_precision(tokens):
            return self.image_encoder.neck(tokens.float().permute(0, 3, 1, 2))


def build_decoder(config: SamConfig) -> tuple[PromptEncoder, MaskDecoder]:
    """Fresh prompt encoder and mask decoder of a SAM of this shape."""
    grid = (config.grid, config.grid)
    prompt_encoder = PromptEncoder(
        embed_dim=config.out_chans,
        image_embedding_size=grid,
        input_image_size=(config.input_size, config.input_size),
        mask_in_chans=config.mask_in_chans,
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(
            depth=2,
            embedding_dim=config.out_chans,
            mlp_dim=config.decoder_mlp_dim,
            num_heads=config.decoder_heads,
        ),
        transformer_dim=config.out_chans,
        iou_head_depth=3,
        iou_head_hidden_dim=config.iou_hidden_dim,
    )
    return prompt_encoder, mask_decoder


def default_split(depth: int) -> int:
    """Trunk blocks when nothing else is asked for: all but the last third."""
    return depth - max(1, depth // 3)


def normalise_pixels(rgb: Tensor) -> Tensor:
    """Apply SAM's mean and standard deviation to (..., 3, H, W) pixels in 0..255."""
    mean = rgb.new_tensor(PIXEL_MEAN).view(3, 1, 1)
    std = rgb.new_tensor(PIXEL_STD).view(3, 1, 1)
    return (rgb - mean) / std


def resize_positions(state: dict[str, Tensor], config: SamConfig) -> dict[str, Tensor]:
    """Fit the positions of a checkpoint to another input size, by linear interpolation.

    Absolute positions (a pyramid stem has none) and the relative ones of global blocks depend on
    the size; windows keep theirs.
    """
    state, grid = dict(state), config.grid
    key = "image_encoder.pos_embed"
    if key in state and state[key].shape[1:3] != (grid, grid):
        table = state[key].float().permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(grid, grid), mode="bilinear", align_corners=False)
        state[key] = table.permute(0, 2, 3, 1).contiguous()
    for i in config.global_attn_indexes:
        for name in (f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for axis in "hw"):
            if state[name].shape[0] != 2 * grid - 1:
                table = state[name].float().T[None]
                state[name] = F.interpolate(table, size=2 * grid - 1, mode="linear")[0].T
    return state


def run_block(
    block: Block,
    x: Tensor,
    adapter: BlockAdapter | None,
    check: Callable[[], None] | None = None,
) -> Tensor:
    """One transformer block of the encoder, with an adapter or without, on (B, G, G, C).

    `check` is called in its middle; what it raises ends the run.
    """
    attention = grid_attention if adapter is None else adapter.attention
    # The norm of a token of zeros is its bias.
    filler = block.norm1.bias if adapter is not None and adapter.pad_before_norm else None
    x = x + attention(block.attn, block.norm1(x), Windows(block.window_size, filler))
    if check is not None:
        check()
    h = block.norm2(x)
    return x + (block.mlp(h) if adapter is None else adapter.mlp(block.mlp, h))
