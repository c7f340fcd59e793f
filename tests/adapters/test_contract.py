"""What every kind of block layer has to do. A new kind is tested here by being registered.

A kind that takes no signals names itself in `WITHOUT_SIGNALS`; nothing else is said per kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_clip, tiny_sam
from torch import Tensor, nn

from napari_clipsam.adapters.base import AdapterConfig, layer_kinds
from napari_clipsam.adapters.files import load_adapter, save_adapter
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.errors import AdapterError
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.decoder import Decoded, decode, embed_masks, embed_points
from napari_clipsam.models.sam import Sam
from napari_clipsam.semantics import Signals, make_signals, text_vector

WITHOUT_SIGNALS = {"lora"}

close = torch.testing.assert_close


@pytest.fixture(params=layer_kinds())
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sam() -> Sam:
    return tiny_sam()


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny_clip()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(kind: str, sam: Sam, clip: Clip, **changes: object) -> Adapter:
    config = AdapterConfig(**{"n_conditioned": 2, "kind": kind, **changes})
    return build_adapter(config, sam, clip, seed=0)


def pixels(n: int = 1) -> Tensor:
    return torch.randn(n, 3, 64, 64, generator=seeded(5))


def see(clip: Clip, image: Tensor, *words: str) -> Signals:
    """Signals of each image with the word at its place."""
    with torch.no_grad():
        text = [text_vector(clip.concept(word), clip.redundant()) for word in words]
        return make_signals(clip.dense(image), torch.stack(text))


def embed(sam: Sam, adapter: Adapter, image: Tensor, signals: Signals | None) -> Tensor:
    with torch.no_grad():
        trunk = sam.trunk(image, adapter.split)
    return sam.head(trunk, adapter.split, adapter.condition(signals))


def plain(sam: Sam, image: Tensor) -> Tensor:
    """What `segment_anything`'s own encoder gives."""
    with torch.no_grad():
        return sam.image_encoder(image)


def answer(owner: Sam | Adapter, embedding: Tensor) -> Decoded:
    """All masks for a point, a box and a mask prompt."""
    encoder = owner.prompt_encoder
    coords = torch.tensor([[[20.0, 30.0], [40.0, 12.0], [8.0, 8.0], [50.0, 40.0]]])
    sparse = embed_points(encoder, coords, torch.tensor([[1, 0, 2, 3]]))
    mask = torch.randn(1, 1, 32, 32, generator=seeded(6))
    dense = embed_masks(encoder, mask, 1)
    pe = encoder.get_dense_pe()
    return decode(owner.mask_decoder, embedding, pe, sparse, dense, multimask=None)


def train(adapter: Adapter, sam: Sam, signals: Signals, steps: int = 2) -> None:
    """A few steps towards a mask; the first moves what starts at zero."""
    optimiser = torch.optim.Adam(adapter.parameters(), lr=0.02)
    target = (torch.rand(1, 4, 32, 32, generator=seeded(7)) > 0.5).float()
    for _ in range(steps):
        logits = answer(adapter, embed(sam, adapter, pixels(), signals)).logits
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(logits, target).backward()
        optimiser.step()


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    changed = [name for name in found if not torch.equal(found[name], expected[name])]
    assert not changed


# ---------------------------------------------------------------- off, and at the start


@pytest.mark.parametrize("init", ["zero", "paper"])
def test_off_is_the_base(kind: str, init: str, sam: Sam, clip: Clip) -> None:
    expected = plain(sam, pixels())
    adapter = build(kind, sam, clip, init=init)
    train(adapter, sam, see(clip, pixels(), "nuclei"))
    with torch.no_grad():
        found = sam.head(sam.trunk(pixels(), adapter.split), adapter.split, None)
    close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n_conditioned", [1, 3])
@pytest.mark.parametrize("semantics", [True, False])
def test_at_the_start_the_answer_is_the_bases(
    kind: str, n_conditioned: int, semantics: bool, sam: Sam, clip: Clip
) -> None:
    adapter = build(kind, sam, clip, n_conditioned=n_conditioned, semantics=semantics)
    with torch.no_grad():
        found = embed(sam, adapter, pixels(), see(clip, pixels(), "nuclei"))
        base = plain(sam, pixels())
        close(found, base, atol=1e-6, rtol=1e-5)
        close(answer(adapter, found).logits, answer(sam, base).logits, atol=1e-5, rtol=1e-5)
        close(answer(adapter, found).iou, answer(sam, base).iou, atol=1e-5, rtol=1e-5)


def test_training_changes_the_answer(kind: str, sam: Sam, clip: Clip) -> None:
    adapter = build(kind, sam, clip)
    signals = see(clip, pixels(), "nuclei")
    train(adapter, sam, signals)
    found = embed(sam, adapter, pixels(), signals)
    assert (found - plain(sam, pixels())).abs().max() > 1e-4


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("init", ["zero", "paper"])
def test_gradients_reach_every_weight(kind: str, init: str, sam: Sam, clip: Clip) -> None:
    adapter = build(kind, sam, clip, init=init)
    signals = see(clip, pixels(), "nuclei")
    train(adapter, sam, signals, steps=1)
    adapter.zero_grad()
    answer(adapter, embed(sam, adapter, pixels(), signals)).logits.square().mean().backward()
    unmoved = [
        name
        for name, value in adapter.blocks.named_parameters()
        if value.grad is None or not value.grad.abs().max() > 0
    ]
    assert not unmoved


def test_nothing_of_the_base_is_touched(kind: str, sam: Sam, clip: Clip) -> None:
    before = copied(sam), copied(clip)
    adapter = build(kind, sam, clip)
    train(adapter, sam, see(clip, pixels(), "nuclei"))
    assert_same(sam.state_dict(), before[0])
    assert_same(clip.state_dict(), before[1])


def test_an_adapter_of_a_frozen_base_can_be_trained(kind: str, sam: Sam, clip: Clip) -> None:
    adapter = build(kind, sam.requires_grad_(False), clip)
    assert all(p.requires_grad for p in adapter.parameters())
    train(adapter, sam, see(clip, pixels(), "nuclei"))
    assert all(p.grad is None for p in sam.parameters())


# ---------------------------------------------------------------- signals


def test_words_make_a_difference_once_trained(kind: str, sam: Sam, clip: Clip) -> None:
    adapter = build(kind, sam, clip)
    train(adapter, sam, see(clip, pixels(), "nuclei"))
    one, other = (
        embed(sam, adapter, pixels(), see(clip, pixels(), word)) for word in ("nuclei", "muscle")
    )
    difference = (one - other).abs().max()
    assert difference == 0 if kind in WITHOUT_SIGNALS else difference > 1e-5


def test_with_semantics_off_signals_are_ignored(kind: str, sam: Sam, clip: Clip) -> None:
    adapter = build(kind, sam, clip, semantics=False)
    train(adapter, sam, see(clip, pixels(), "nuclei"))
    found = [
        embed(sam, adapter, pixels(), signals)
        for signals in (see(clip, pixels(), "nuclei"), see(clip, pixels(), "muscle"), None)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_semantics_off_leaves_capacity_as_it_was(kind: str, sam: Sam, clip: Clip) -> None:
    shapes = [
        {
            name: value.shape
            for name, value in build(kind, sam, clip, semantics=on).state_dict().items()
        }
        for on in (True, False)
    ]
    assert shapes[0] == shapes[1]


def test_pairs_of_a_batch_do_not_mix(kind: str, sam: Sam, clip: Clip) -> None:
    adapter = build(kind, sam, clip)
    train(adapter, sam, see(clip, pixels(), "nuclei"))
    images, words = pixels(3), ("nuclei", "muscle", "nuclei")
    together = embed(sam, adapter, images, see(clip, images, *words))
    for i, word in enumerate(words):
        image = images[i : i + 1]
        alone = embed(sam, adapter, image, see(clip, image, word))
        close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------- checks and files


def test_more_blocks_than_there_are_is_refused(kind: str, sam: Sam, clip: Clip) -> None:
    with pytest.raises(AdapterError, match=r"4 conditioned blocks; this SAM has 3 .* Use 3 or"):
        build(kind, sam, clip, n_conditioned=4)


def test_the_seed_decides_and_nobody_elses_draws_change(kind: str, sam: Sam, clip: Clip) -> None:
    config = AdapterConfig(n_conditioned=2, kind=kind, init="paper")
    state = torch.get_rng_state()
    one, same, other = (build_adapter(config, sam, clip, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(one.state_dict(), same.state_dict())
    with pytest.raises(AssertionError):
        assert_same(one.blocks.state_dict(), other.blocks.state_dict())


@pytest.mark.parametrize("half", [True, False])
def test_a_saved_adapter_comes_back(
    kind: str, half: bool, sam: Sam, clip: Clip, tmp_path: Path
) -> None:
    adapter = build(kind, sam, clip)
    signals = see(clip, pixels(), "nuclei")
    train(adapter, sam, signals)
    loaded = load_adapter(save_adapter(adapter, tmp_path / "a.safetensors", half=half), sam, clip)
    assert loaded.config == adapter.config and loaded.info == adapter.info
    if half:
        for value in adapter.parameters():
            value.data = value.data.half().float()
    assert_same(loaded.state_dict(), adapter.state_dict())
    found = answer(loaded, embed(sam, loaded, pixels(), signals)).logits
    assert torch.equal(found, answer(adapter, embed(sam, adapter, pixels(), signals)).logits)


def test_another_base_is_refused_before_anything_changes(
    kind: str, sam: Sam, clip: Clip, tmp_path: Path
) -> None:
    path = save_adapter(build(kind, sam, clip), tmp_path / "a.safetensors")
    other = tiny_sam(seed=1)
    before = copied(other), copied(clip), torch.get_rng_state()
    with pytest.raises(AdapterError) as caught:
        load_adapter(path, other, clip)
    assert sam.identity in str(caught.value) and other.identity in str(caught.value)
    assert_same(other.state_dict(), before[0])
    assert_same(clip.state_dict(), before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


# ---------------------------------------------------------------- parts of the grid


def test_a_part_of_the_grid_gets_what_it_would_inside_the_whole(kind: str, clip: Clip) -> None:
    sam = tiny_sam(global_attn_indexes=(), window_size=2)
    # Of what follows the blocks, a 1 x 1 convolution and a norm keep tokens apart.
    sam.image_encoder.neck = sam.image_encoder.neck[:2]
    adapter = build(kind, sam, clip)
    for i, parameter in enumerate(adapter.parameters()):
        nn.init.normal_(parameter, std=0.1, generator=seeded(i))
    image = pixels()
    signals = see(clip, image, "nuclei")
    tokens = sam.trunk(image, adapter.split)

    def cut(maps: Tensor) -> Tensor:
        return maps[:, 4:8, 2:6]

    with torch.no_grad():
        bound = adapter.condition(signals)
        whole = sam.head(tokens, adapter.split, bound)
        part = sam.head(cut(tokens), adapter.split, [block.part(cut) for block in bound])

    close(part, whole[..., 4:8, 2:6], atol=1e-5, rtol=0)
