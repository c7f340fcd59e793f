"""SAM split in two, and our own call of its decoder, against `segment_anything`'s."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam as OriginalSam
from tiny import SAM_CONFIG, tiny_sam
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from napari_clipsam.errors import ConfigError
from napari_clipsam.models.attention import Windows, grid_attention
from napari_clipsam.models.decoder import Decoded, decode, embed_masks, embed_points
from napari_clipsam.models.registry import starter_file
from napari_clipsam.models.sam import (
    PIXEL_MEAN,
    PIXEL_STD,
    SAM_CONFIGS,
    Sam,
    SamConfig,
    default_split,
    normalise_pixels,
    resize_positions,
    run_block,
)
from napari_clipsam.models.weights import load_sam

close = torch.testing.assert_close


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- encoder


@pytest.mark.parametrize("split", [0, 1, 2, 3])
@pytest.mark.parametrize("window_size", [3, 4, 5, 14])
def test_trunk_and_head_make_up_the_original_encoder(split: int, window_size: int) -> None:
    sam = tiny_sam(window_size=window_size)
    x = noise(2, 3, 64, 64)
    with torch.inference_mode():
        tokens = sam.trunk(x, split)
        found = sam.head(tokens, split)
        wanted = sam.image_encoder(x)

    assert tokens.shape == (2, 8, 8, 32)
    close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_no_large_part_of_the_encoder_runs_between_two_checks(compiled: bool) -> None:
    config = replace(load_sam(starter_file("sam")).config, input_size=128)
    sam, done = Sam(config), [0]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:

        def check() -> None:
            done.append(counter.get_total_flops())

        run = run_block if compiled else None
        sam.head(sam.trunk(noise(1, 3, 128, 128), 2, check, run), 2, check=check, run=run)
        check()
    largest = max(after - before for before, after in pairwise(done))
    assert largest / done[-1] < (0.2 if compiled else 0.1)


@pytest.mark.parametrize("size", [512, 768, 1024])
def test_every_input_size_equals_the_original(size: int) -> None:
    sam = tiny_sam(depth=2, input_size=size, patch_size=16, window_size=14)
    x = noise(1, 3, size, size)
    with torch.inference_mode():
        found = sam.head(sam.trunk(x, 1), 1)

        close(found, sam.image_encoder(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("indexes", [(), (0, 1, 2)])
def test_all_blocks_windowed_or_all_global(indexes: tuple[int, ...]) -> None:
    sam = tiny_sam(global_attn_indexes=indexes)
    x = noise(1, 3, 64, 64)
    with torch.inference_mode():
        close(sam.head(sam.trunk(x, 1), 1), sam.image_encoder(x), atol=1e-5, rtol=0)


class Plain:
    """An adapter that changes nothing but where windows are cut."""

    def __init__(self, pad_before_norm: bool = False) -> None:
        self.pad_before_norm = pad_before_norm

    def attention(self, attn: nn.Module, x: Tensor, windows: Windows) -> Tensor:
        return grid_attention(attn, x, windows)

    def mlp(self, mlp: nn.Module, h: Tensor) -> Tensor:
        return mlp(h)


@pytest.mark.parametrize("pad_before_norm", [False, True])
def test_an_adapter_that_does_nothing_changes_nothing(pad_before_norm: bool) -> None:
    sam = tiny_sam(window_size=4)  # no padding: both ways to cut are the same
    tokens = sam.trunk(noise(1, 3, 64, 64), 1)

    adapted = sam.head(tokens, 1, [Plain(pad_before_norm), None])

    close(adapted, sam.head(tokens, 1), atol=1e-6, rtol=0)


def test_windows_cut_before_the_norm_show_in_padded_windows_alone() -> None:
    sam = tiny_sam(depth=1, global_attn_indexes=(), window_size=3)
    # Of what follows the blocks, a 1 x 1 convolution and a norm keep tokens apart.
    sam.image_encoder.neck = sam.image_encoder.neck[:2]
    tokens = sam.trunk(noise(1, 3, 64, 64), 0)

    change = sam.head(tokens, 0, [Plain(pad_before_norm=True)]) - sam.head(tokens, 0)

    # 8 tokens in windows of 3: the last window of each row and column has padding.
    assert change[..., :6, :6].abs().max() < 1e-6
    assert change[..., 6:, :].abs().amax(dim=1).min() > 1e-6
    assert change[..., :, 6:].abs().amax(dim=1).min() > 1e-6


def test_a_wrong_number_of_adapters_is_refused() -> None:
    sam = tiny_sam()
    tokens = sam.trunk(noise(1, 3, 64, 64), 1)

    with pytest.raises(ValueError, match="zip"):
        sam.head(tokens, 1, [None])


@pytest.mark.parametrize(("depth", "split"), [(12, 8), (24, 16), (32, 22), (4, 3), (2, 1), (1, 0)])
def test_the_last_third_is_the_head(depth: int, split: int) -> None:
    assert default_split(depth) == split


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_names_and_shapes_are_those_of_metas_models(name: str) -> None:
    with torch.device("meta"):
        original, ours = sam_model_registry[name](), Sam(SAM_CONFIGS[name])

    def shapes(module: nn.Module) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in module.state_dict().items()}

    assert shapes(ours) == shapes(original)


def test_pixels_are_normalised_as_the_original_does() -> None:
    sam = tiny_sam()
    original = OriginalSam(
        sam.image_encoder, sam.prompt_encoder, sam.mask_decoder, list(PIXEL_MEAN), list(PIXEL_STD)
    )
    rgb = noise(2, 3, 64, 64).abs() * 100

    close(normalise_pixels(rgb), original.preprocess(rgb), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"input_size": 500, "patch_size": 16}, "500 is not a multiple of the patch size 16"),
        (
            {"stem_widths": (8,) * 5, "stem_blocks": (0,) * 5, "patch_size": 16},
            "Set patch_size=8",
        ),
    ],
)
def test_shapes_that_cannot_work_are_refused(changes: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        replace(SAM_CONFIG, **changes)


def test_a_grid_is_counted_in_tokens() -> None:
    assert [SamConfig(input_size=size).grid for size in (512, 768, 1024)] == [32, 48, 64]


# ---------------------------------------------------------------- precision


def half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def test_autocast_reaches_the_blocks_and_nothing_before_or_after_them() -> None:
    sam = tiny_sam()
    x, depth = noise(1, 3, 64, 64), sam.config.depth
    with torch.inference_mode():
        tokens = sam.trunk(x, 0)
        embedding = sam.head(tokens, depth)
        with half():
            assert torch.equal(sam.trunk(x, 0), tokens)
            assert torch.equal(sam.head(tokens, depth), embedding)
            rounded = sam.trunk(x, depth)
        exact = sam.trunk(x, depth)

    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    close(rounded, exact, atol=0.1, rtol=0.1)


def test_which_mask_is_taken_does_not_depend_on_autocast() -> None:
    sam = tiny_sam()
    grid = sam.config.grid
    image, masks = noise(1, 32, grid, grid), noise(2, 1, 4 * grid, 4 * grid)
    places, points = sam.prompt_encoder.get_dense_pe(), (POINTS, LABELS)

    def answer() -> Decoded:
        sparse = embed_points(sam.prompt_encoder, *points)
        dense = embed_masks(sam.prompt_encoder, masks, 2)
        return decode(sam.mask_decoder, image, places, sparse, dense, None)

    with torch.inference_mode():
        wanted = answer()
        with half():
            found = answer()

    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


# ---------------------------------------------------------------- positions of another size


@pytest.mark.parametrize("size", [32, 64, 96])
def test_resized_positions_equal_the_originals_own_interpolation(size: int) -> None:
    sam = tiny_sam()
    config = replace(sam.config, input_size=size)
    resized = Sam(config)
    resized.load_state_dict(resize_positions(sam.state_dict(), config))
    x = noise(1, 3, size, size)
    with torch.inference_mode():
        found = resized.head(resized.trunk(x, 1), 1)
        # It resizes relative positions on the way, and has no way to resize absolute ones.
        sam.image_encoder.pos_embed = resized.image_encoder.pos_embed
        wanted = sam.image_encoder(x)

    assert found.shape[-1] == size // 8
    close(found, wanted, atol=1e-5, rtol=0)


def test_resized_absolute_positions_keep_their_course() -> None:
    sam = tiny_sam()
    ramp = torch.linspace(0, 7, 8)
    with torch.no_grad():
        sam.image_encoder.pos_embed.copy_(ramp[None, :, None, None].expand(1, 8, 8, 32))
    state = resize_positions(sam.state_dict(), replace(sam.config, input_size=128))

    table = state["image_encoder.pos_embed"]
    assert table.shape == (1, 16, 16, 32)
    close(table[0, 1:-1, 3, 0], torch.arange(0.25, 7, 0.5))


def test_a_stem_has_relative_positions_to_resize_only() -> None:
    stem = {"stem_widths": (8,) * 5, "stem_blocks": (0,) * 5}
    sam = tiny_sam(**stem)
    config = replace(sam.config, input_size=96)
    resized = Sam(config)

    resized.load_state_dict(resize_positions(sam.state_dict(), config))

    assert resized.image_encoder.blocks[1].attn.rel_pos_h.shape[0] == 23
    assert resized.image_encoder.blocks[0].attn.rel_pos_h.shape[0] == 5


def test_resizing_leaves_the_given_state_alone() -> None:
    sam = tiny_sam()
    state = sam.state_dict()
    before = {name: value.shape for name, value in state.items()}

    resize_positions(state, replace(sam.config, input_size=96))

    assert {name: value.shape for name, value in state.items()} == before


# ---------------------------------------------------------------- prompts


POINTS = torch.tensor([[[3.0, 40.5], [60.0, 2.0]], [[0.0, 0.0], [63.0, 63.0]]])
LABELS = torch.tensor([[1, 0], [1, 1]])
BOXES = torch.tensor([[2.0, 3.0, 30.0, 40.0], [0.0, 0.0, 64.0, 64.0]])
PAD = torch.zeros(2, 1, 2), torch.full((2, 1), -1)
CORNERS = torch.tensor([[2, 3], [2, 3]])


def test_points_are_embedded_as_the_original_does() -> None:
    encoder = tiny_sam().prompt_encoder
    wanted, _ = encoder((POINTS, LABELS), None, None)

    coords = torch.cat([POINTS, PAD[0]], dim=1)
    found = embed_points(encoder, coords, torch.cat([LABELS, PAD[1]], dim=1))

    close(found, wanted, atol=1e-6, rtol=0)


def test_boxes_are_embedded_as_the_original_does() -> None:
    encoder = tiny_sam().prompt_encoder
    wanted, _ = encoder(None, BOXES, None)

    close(embed_points(encoder, BOXES.reshape(2, 2, 2), CORNERS), wanted, atol=1e-6, rtol=0)


def test_points_and_boxes_together_need_no_padding() -> None:
    encoder = tiny_sam().prompt_encoder
    wanted, _ = encoder((POINTS, LABELS), BOXES, None)

    coords = torch.cat([POINTS, BOXES.reshape(2, 2, 2)], dim=1)
    found = embed_points(encoder, coords, torch.cat([LABELS, CORNERS], dim=1))

    close(found, wanted, atol=1e-6, rtol=0)


def test_a_click_keeps_its_place_in_half_precision() -> None:
    encoder = tiny_sam().prompt_encoder
    wanted = embed_points(encoder, POINTS, LABELS)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = embed_points(encoder, POINTS, LABELS)

    close(found, wanted, atol=1e-6, rtol=0)


def test_masks_are_embedded_as_the_original_does() -> None:
    encoder = tiny_sam().prompt_encoder
    masks = noise(2, 1, 32, 32)

    close(embed_masks(encoder, masks, 2), encoder(None, None, masks)[1], atol=1e-6, rtol=0)
    close(embed_masks(encoder, None, 2), encoder(None, BOXES, None)[1], atol=0, rtol=0)


# ---------------------------------------------------------------- decoder


@pytest.fixture
def prompts() -> tuple[Sam, Tensor, Tensor, Tensor]:
    """A SAM with position encoding, sparse and dense prompts for three masks."""
    sam = tiny_sam()
    sparse, dense = noise(3, 2, 32, seed=1), noise(3, 32, 8, 8, seed=2)
    return sam, sam.prompt_encoder.get_dense_pe(), sparse, dense


@pytest.mark.parametrize("multimask", [True, False])
def test_prompts_on_one_image_decode_as_the_original(prompts: tuple, multimask: bool) -> None:
    sam, image_pe, sparse, dense = prompts
    image = noise(1, 32, 8, 8)
    with torch.inference_mode():
        masks, iou = sam.mask_decoder(image, image_pe, sparse, dense, multimask)
        found = decode(sam.mask_decoder, image, image_pe, sparse, dense, multimask)

    assert found.logits.shape == (3, 3 if multimask else 1, 32, 32)
    close(found.logits, masks, atol=1e-5, rtol=0)
    close(found.iou, iou, atol=1e-5, rtol=0)


def test_without_a_choice_all_four_masks_come_back(prompts: tuple) -> None:
    sam, image_pe, sparse, dense = prompts
    image = noise(1, 32, 8, 8)
    with torch.inference_mode():
        masks, iou = sam.mask_decoder.predict_masks(image, image_pe, sparse, dense)
        found = decode(sam.mask_decoder, image, image_pe, sparse, dense, None)
        quality = sam.mask_decoder.iou_prediction_head(found.iou_token)

    close(found.logits, masks, atol=1e-5, rtol=0)
    close(found.iou, iou, atol=1e-5, rtol=0)
    close(quality, iou, atol=1e-5, rtol=0)


def test_each_prompt_is_decoded_on_its_own_image(prompts: tuple) -> None:
    sam, image_pe, sparse, dense = prompts
    images = noise(3, 32, 8, 8)
    with torch.inference_mode():
        found = decode(sam.mask_decoder, images, image_pe, sparse, dense, False)
        for i in range(3):
            one = slice(i, i + 1)
            masks, iou = sam.mask_decoder(images[one], image_pe, sparse[one], dense[one], False)
            close(found.logits[one], masks, atol=1e-5, rtol=0)
            close(found.iou[one], iou, atol=1e-5, rtol=0)
