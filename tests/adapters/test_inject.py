"""Building adapters: checks, settings, taught words, targets, presence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_clip, tiny_sam
from torch import Tensor

from napari_clipsam.adapters.base import (
    AdapterConfig,
    BlockLayer,
    layer_class,
    layer_kinds,
    register,
)
from napari_clipsam.adapters.inject import (
    Adapter,
    build_adapter,
    parameter_counts,
    tuning_of,
)
from napari_clipsam.errors import AdapterError, ConfigError, WordError
from napari_clipsam.models.attention import Windows, grid_attention
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.decoder import decode, embed_masks, embed_points
from napari_clipsam.models.sam import Sam
from napari_clipsam.semantics import cosine_statistics, make_signals, text_vector

close = torch.testing.assert_close


@pytest.fixture
def sam() -> Sam:
    return tiny_sam()


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny_clip()


def build(sam: Sam, clip: Clip, **changes: object) -> Adapter:
    return build_adapter(AdapterConfig(**{"n_conditioned": 2, **changes}), sam, clip, seed=0)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n_conditioned", 0),
        ("init", "random"),
        ("normalisation", "patch"),
        ("clip_tuning", "all"),
        ("reduction", 0),
        ("rank", 0),
        ("clip_rank", 0),
        ("n_points", 0),
        ("map_threshold", 0.0),
        ("map_threshold", 1.0),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(setting: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        AdapterConfig(**{"n_conditioned": 2, setting: value})
    assert setting in str(caught.value) and repr(value) in str(caught.value)


def test_settings_survive_json() -> None:
    config = AdapterConfig(n_conditioned=3, kind="lora", semantics=False, scale=1, n_points=9)
    assert AdapterConfig.from_json(config.to_json()) == (config, [])


def test_settings_of_a_newer_version_are_named() -> None:
    values = {**AdapterConfig(2).to_json(), "zeal": 1, "gate": True}
    assert AdapterConfig.from_json(values) == (AdapterConfig(2), ["gate", "zeal"])


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("n_conditioned", 2.5, "int"),
        ("n_conditioned", True, "int"),
        ("semantics", "yes", "bool"),
        ("scale", "half", "float"),
        ("kind", None, "str"),
        ("init", 0, "str"),
        ("refiner_widths", 16, "list"),
    ],
)
def test_a_setting_of_the_wrong_type_is_named(setting: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"{setting} is .*must be a {wanted}"):
        AdapterConfig.from_json({**AdapterConfig(2).to_json(), setting: value})


def test_settings_without_the_number_of_blocks_are_incomplete() -> None:
    with pytest.raises(ConfigError, match=r"incomplete .*n_conditioned"):
        AdapterConfig.from_json({"kind": "lora"})


# ---------------------------------------------------------------- kinds


def test_an_unknown_kind_is_refused_with_those_there_are(sam: Sam, clip: Clip) -> None:
    with pytest.raises(ConfigError, match=r"no adapter kind 'prefix'\. Known: clip-guided, lora"):
        build(sam, clip, kind="prefix")


def test_a_kind_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="'lora' is registered twice"):
        register("lora")(layer_class("lora"))


def test_a_registered_kind_can_be_built(
    sam: Sam, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_clipsam.adapters.base._LAYERS", {})

    @register("scale-tokens")
    class ScaleTokens(BlockLayer):
        pad_before_norm = False

        def __init__(self, dim: int, clip_dim: int, config: AdapterConfig) -> None:
            super().__init__(dim, clip_dim, config)
            self.factor = torch.nn.Parameter(torch.ones(dim))

        def bind(self, signals: object, grid: int) -> BlockLayer:
            return self

        def attention(self, attn: torch.nn.Module, x: Tensor, windows: Windows) -> Tensor:
            return grid_attention(attn, x, windows)

        def mlp(self, mlp: torch.nn.Module, h: Tensor) -> Tensor:
            return mlp(h) * self.factor

    assert layer_kinds() == ["scale-tokens"]
    adapter = build(sam, clip, kind="scale-tokens")
    assert [type(block) for block in adapter.blocks] == [ScaleTokens] * 2


# ---------------------------------------------------------------- checks


def test_a_bottleneck_without_channels_is_refused(sam: Sam, clip: Clip) -> None:
    with pytest.raises(AdapterError, match="reduction of 32 or less"):
        build(sam, clip, reduction=33)


@pytest.mark.parametrize("tuning", ["lora", "attention"])
def test_tuning_a_clip_without_attention_of_its_own_is_refused(sam: Sam, tuning: str) -> None:
    clip = SimpleNamespace(vision_attention=list)
    with pytest.raises(AdapterError, match=r"cannot be tuned\. Use clip_tuning='none'"):
        build(sam, clip, clip_tuning=tuning)


def test_signals_of_another_clip_are_refused(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip)
    signals = make_signals(torch.ones(1, 17, 24), torch.ones(1, 24))
    with pytest.raises(AdapterError, match=r"24 channels; .* CLIP with 16"):
        adapter.condition(signals)


# ---------------------------------------------------------------- parts


def test_the_last_blocks_carry_layers(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip, n_conditioned=1)
    assert adapter.split == 2 and len(adapter.blocks) == 1
    assert len(adapter.condition(None)) == 1


def test_an_adapter_has_its_own_decoder(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip)
    own = {p.data_ptr() for p in adapter.parameters()}
    assert not own & {p.data_ptr() for p in [*sam.parameters(), *clip.parameters()]}
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[n]) for n, value in adapter.state_dict().items())


def test_each_target_has_a_token_of_its_own(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip)
    adapter.target_token.weight.data = torch.stack([torch.zeros(32), torch.ones(32)])
    assert adapter.target_tokens("concept", 3).shape == (3, 1, 32)
    assert not adapter.target_tokens("concept", 3).any()
    assert (adapter.target_tokens("object", 3) == 1).all()


def test_without_object_mode_there_is_neither_token_nor_presence(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip, object_mode=False)
    assert adapter.target_tokens("object", 3).shape == (3, 0, 32)
    assert not [n for n in adapter.state_dict() if n.startswith(("presence", "target"))]


def test_presence_reads_the_iou_token_and_the_cosine(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip)
    adapter.presence.weight.data = torch.zeros(1, 35)
    adapter.presence.weight.data[0, [0, 32, 33, 34]] = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    adapter.presence.bias.data = torch.tensor([0.5])
    token = torch.zeros(2, 32)
    token[1, 0] = 3
    found = adapter.presence_logits(token, torch.tensor([[0.3, 0.2, 0.1], [0.0, 0.0, 0.0]]))
    close(found, torch.tensor([0.5 + 3 + 20 + 100, 3.5]))


def test_parameters_are_counted_by_part(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip, clip_tuning="lora")
    adapter.teach("nuclei")
    counts = parameter_counts(adapter)
    own = sum(p.numel() for p in sam.mask_decoder.parameters())
    assert counts["mask_decoder"] == own
    extra = 2 * 32 + 36 + 16
    assert sum(counts.values()) + extra == sum(p.numel() for p in adapter.parameters())
    assert parameter_counts(build(sam, clip))["clip_attention"] == 0


def test_tuning_of_an_adapter_or_none(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip, clip_tuning="attention")
    assert tuning_of(adapter) is adapter.clip_tuning
    assert tuning_of(None) is None and tuning_of(build(sam, clip)) is None


def test_facts_are_changed_one_by_one(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip).with_info(words=("nuclei",)).with_info(threshold=0.4)
    assert adapter.info.words == ("nuclei",) and adapter.info.threshold == 0.4
    assert adapter.info.base_identity == sam.identity
    assert adapter.info.clip_identity == clip.identity


# ---------------------------------------------------------------- taught words


def test_a_taught_word_starts_with_no_change(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip)
    assert adapter.delta("nuclei") is None and adapter.taught == ()
    vector = adapter.teach("nuclei")
    assert vector.shape == (16,) and not vector.any() and vector.requires_grad
    assert adapter.delta("nuclei") is vector
    assert vector is dict(adapter.named_parameters())["deltas.0"]


@pytest.mark.parametrize("word", ["T. gondii", "4.5 um beads", "α-tubulin", "a/b", "keys", "細胞"])
def test_any_word_can_be_taught(sam: Sam, clip: Clip, word: str) -> None:
    adapter = build(sam, clip)
    adapter.teach("first")
    vector = adapter.teach(word)
    assert adapter.delta(word) is vector and adapter.delta("first") is not vector
    assert adapter.taught == ("first", word.lower())


def test_case_and_spacing_do_not_make_another_word(sam: Sam, clip: Clip) -> None:
    adapter = build(sam, clip)
    vector = adapter.teach("  Mitotic\tCells ")
    assert adapter.delta("mitotic cells") is vector
    assert adapter.teach("MITOTIC  cells") is vector
    assert adapter.taught == ("mitotic cells",)


@pytest.mark.parametrize("word", ["", "  \t"])
def test_a_blank_word_cannot_be_taught(sam: Sam, clip: Clip, word: str) -> None:
    with pytest.raises(WordError, match="word is empty"):
        build(sam, clip).teach(word)


# ---------------------------------------------------------------- all that is trained


@pytest.mark.parametrize("tuning", ["lora", "attention"])
def test_gradients_reach_all_that_an_adapter_trains(sam: Sam, clip: Clip, tuning: str) -> None:
    """Both targets, all prompts, presence, a taught word and CLIP's attention in one loss."""
    adapter = build(sam.requires_grad_(False), clip, clip_tuning=tuning)
    adapter.teach("nuclei")
    optimiser = torch.optim.Adam(adapter.parameters(), lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        total_loss(adapter, sam, clip).backward()
        optimiser.step()
    silent = [
        name
        for name, value in adapter.named_parameters()
        if value.grad is None or not value.grad.abs().max() > 0
    ]
    assert not silent


def total_loss(adapter: Adapter, sam: Sam, clip: Clip) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        concept, redundant = clip.concept("nuclei"), clip.redundant()
        trunk = sam.trunk(pixels, adapter.split)
    text = text_vector(concept, redundant, adapter.delta("nuclei"))[None]
    signals = make_signals(clip.dense(pixels, adapter.clip_tuning), text)
    embedding = sam.head(trunk, adapter.split, adapter.condition(signals))
    encoder = adapter.prompt_encoder
    coords = torch.tensor([[[20.0, 30.0], [40.0, 12.0], [8.0, 8.0], [50.0, 40.0], [0.0, 0.0]]])
    points = embed_points(encoder, coords, torch.tensor([[1, 0, 2, 3, -1]]))
    mask = torch.randn(1, 1, 32, 32, generator=generator)
    target = (torch.rand(1, 4, 32, 32, generator=generator) > 0.5).float()
    total = torch.zeros(())
    for name, prompt in (("concept", mask), ("object", None)):
        sparse = torch.cat([points, adapter.target_tokens(name, 1)], dim=1)
        dense = embed_masks(encoder, prompt, 1)
        pe = encoder.get_dense_pe()
        found = decode(adapter.mask_decoder, embedding, pe, sparse, dense, multimask=None)
        presence = adapter.presence_logits(found.iou_token, cosine_statistics(signals))
        total = total + F.binary_cross_entropy_with_logits(found.logits, target)
        total = total + found.iou.square().mean() + F.softplus(presence).mean()
    return total
