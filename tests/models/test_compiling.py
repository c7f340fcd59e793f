"""Compiled blocks: the same answer, and refused where there is nothing to compile with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.semantic import GuidedLayer
from napari_clipsam.errors import ConfigError
from napari_clipsam.models import compiling
from napari_clipsam.models.compiling import compiled, require_compiler
from napari_clipsam.models.sam import Sam, SamConfig, run_block
from napari_clipsam.semantics import Signals

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@needs_compiler
def test_compiled_code_gives_the_same_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    run, x = compiled(lambda x: x.sin() + x.mean(1, keepdim=True)), torch.randn(3, 5)
    with torch.inference_mode():
        torch.testing.assert_close(run(x), x.sin() + x.mean(1, keepdim=True))
    assert any((tmp_path / "compiled").rglob("*.so"))


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("global_blocks", [(), (0,)], ids=["windows", "whole grid"])
def test_the_compiler_sees_a_block_in_one_piece(
    conditioned: bool, global_blocks: tuple[int, ...]
) -> None:
    config = SamConfig(16, 1, 2, global_blocks, 64, 8, 3, out_chans=32, decoder_heads=2)
    (block,) = Sam(config).requires_grad_(False).image_encoder.blocks
    layer = GuidedLayer(16, 8, AdapterConfig(n_conditioned=1, init="paper")).requires_grad_(False)
    tokens, vision = torch.randn(1, 8, 8, 16), torch.randn(1, 17, 8)
    similarity, valid = torch.randn(1, 17, 1), torch.ones(1, 16, dtype=torch.bool)
    signals = Signals(vision, torch.randn(1, 8), similarity, similarity[:, 1:, 0], valid, (4, 4))
    bound = layer.bind(signals, 8) if conditioned else None
    whole = torch.compile(run_block, fullgraph=True, backend="eager", dynamic=False)
    with torch.inference_mode():
        assert torch.equal(whole(block, tokens, bound), run_block(block, tokens, bound))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How functions ran; what `torch.compile` would make is a stand-in."""
    seen: list[str] = []

    def compile_it(run: object, *, dynamic: bool, mode: str) -> object:
        def fast(*args: Any) -> Tensor:
            seen.append(mode)
            return next(x for x in args if isinstance(x, Tensor))

        return fast

    monkeypatch.setattr(compiling.torch, "compile", compile_it)
    return seen


def test_with_gradients_nothing_is_compiled(runs: list[str]) -> None:
    run = compiled(lambda x: 2 * x)
    x = torch.ones(3)
    assert run(x).tolist() == [2, 2, 2] and not runs
    with torch.no_grad():
        assert run(x).tolist() == [1, 1, 1] and runs == ["default"]


def test_what_a_graph_gives_is_not_written_over_by_the_next_one(runs: list[str]) -> None:
    run = compiled(lambda x: x, graphs=True)
    x = torch.ones(3)
    with torch.no_grad():
        found = run(x)
    assert runs == ["reduce-overhead"] and found.data_ptr() != x.data_ptr()


def test_what_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def compile_it(run: object, **_: object) -> object:
        def fast(x: Tensor) -> Tensor:
            raise TorchDynamoException("no such operation\nand a long story")

        return fast

    monkeypatch.setattr(compiling.torch, "compile", compile_it)
    run = compiled(lambda x: x)
    with torch.no_grad(), pytest.raises(ConfigError, match=r"\(no such operation\)\. Leave"):
        run(torch.ones(1))


def test_a_python_that_cannot_compile_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_it(*_: object, **__: object) -> object:
        raise RuntimeError("Python 3.99+ not yet supported")

    monkeypatch.setattr(compiling.torch, "compile", compile_it)
    with pytest.raises(ConfigError, match=r"cannot be compiled here \(Python 3\.99"):
        compiled(lambda x: x)


def test_devices_and_compilers_are_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    require_compiler("none", CPU)
    with pytest.raises(ConfigError, match="there is no 'no-such-compiler' here"):
        require_compiler("blocks", CPU)
    with pytest.raises(ConfigError, match="not compiled for mps"):
        require_compiler("blocks", torch.device("mps"))
    with pytest.raises(ConfigError, match="Choose one of none, blocks, graphs"):
        require_compiler("all", CPU)  # type: ignore[arg-type]
