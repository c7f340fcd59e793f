"""Architectures of open_clip, filled from files of whatever make; which are taken at all."""

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
from open_clip import CustomTextCLIP
from tiny import CLIP_ARCHITECTURE, randomise, tiny_clip
from torch import Tensor

from napari_clipsam.errors import ConfigError, WeightsError
from napari_clipsam.models.clip import Clip, ClipConfig, build_clip
from napari_clipsam.models.pretrained import check_open_clip, check_tag, load_open_clip

close = torch.testing.assert_close
TEXTS = ["nuclei", "a photo of cell walls", "Don't panic!"]
TINY = "napari-clipsam-tiny"


def pixels(size: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


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
        worded={**plain, "text_cfg": {**plain["text_cfg"], "hf_tokenizer_name": "some/where"}},
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


def test_a_clip_with_a_tokenizer_of_its_own_goes_by_no_tag() -> None:
    with pytest.raises(WeightsError, match=r"tokenizer.*timm/ViT-B-16-SigLIP.*:FOLDER/FILE"):
        check_open_clip("ViT-B-16-SigLIP")


@pytest.mark.parametrize("there", [[], ["tokenizer.json"]])
def test_a_tokenizer_is_never_fetched(there: list[str], weights: Path) -> None:
    for name in there:
        (weights.parent / name).write_text("{}")
    with pytest.raises(WeightsError, match=r"there is no (tokenizer\.json and no )?tokenizer_conf"):
        load_open_clip(f"{TINY}-worded", weights)


def test_a_clip_whose_tokenizer_cannot_be_read_says_what_to_install(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (weights.parent / name).write_text("{}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"pip install transformers.*or choose another CLIP"):
        load_open_clip(f"{TINY}-worded", weights)


def test_a_tokenizer_is_read_from_its_files_alone(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "open_clip.tokenizer.HFTokenizer", lambda *given, **how: asked.append((given, how))
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (weights.parent / name).write_text("{}")

    load_open_clip(f"{TINY}-worded", weights, input_size=64)

    how = {"local_files_only": True, "trust_remote_code": False, "context_length": 77}
    assert asked == [((str(weights.parent),), how)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tokenizer_beside_the_weights_is_used(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `transformers` writes it reads again, without a network."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "cell": 1, "walls": 2}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<pad>")
    fast.save_pretrained(weights.parent)

    clip = load_open_clip(f"{TINY}-worded", weights, input_size=64)

    assert clip.tokenize(["cell walls"])[0].tolist() == [1, 2, *[0] * 75]
    assert clip.concept("walls").shape == (clip.dim,)


@pytest.mark.parametrize(
    ("tower", "name"), [("text_cfg", "hf_model_name"), ("vision_cfg", "timm_model_name")]
)
def test_towers_that_a_library_would_fetch_are_refused(tower: str, name: str) -> None:
    architecture = deepcopy(CLIP_ARCHITECTURE)
    architecture[tower][name] = "hf-hub:somebody/something"
    with pytest.raises(WeightsError, match=r"from the network, unchecked.*Choose another"):
        build_clip(ClipConfig(architecture, 32))


def test_text_towers_of_transformers_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"from the network, unchecked.*Choose another"):
        check_open_clip("roberta-ViT-B-32")


# ---------------------------------------------------------------- towers of timm


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
