from __future__ import annotations

import torch
import torch.nn.functional as F

from napari_clipsam.semantics import text_vector
from napari_clipsam.training.vectors import fit_vector, map_loss, patch_targets


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_fitted_vector_finds_what_the_word_alone_does_not() -> None:
    directions = F.normalize(torch.randn(4, 16, generator=seeded(1)), dim=-1)
    structure, other, concept, redundant = directions
    targets = (torch.rand(2, 64, generator=seeded(2)) < 0.3).float()
    noise = 0.3 * torch.randn(2, 64, 16, generator=seeded(3))
    patches = torch.where(targets[..., None] > 0, structure, other) + noise
    dense = torch.cat([torch.zeros(2, 1, 16), patches], dim=1)
    delta = torch.nn.Parameter(torch.zeros(16))

    loss = fit_vector(delta, concept, redundant, dense, targets, torch.ones(2, 64))

    cosine = F.normalize(patches, dim=-1) @ text_vector(concept, redundant, delta.detach())
    before = F.normalize(patches, dim=-1) @ text_vector(concept, redundant)
    assert _told_apart(cosine, targets) > 0.95 > _told_apart(before, targets)
    assert loss < map_loss(before, targets, torch.ones(2, 64))


def test_only_differences_of_cosines_count() -> None:
    cosine = torch.randn(1, 64, generator=seeded())
    targets, weights = (cosine > 0.5).float(), torch.ones(1, 64)
    torch.testing.assert_close(
        map_loss(cosine, targets, weights), map_loss(cosine + 3, targets, weights)
    )


def test_patches_without_weight_do_not_count() -> None:
    cosine, targets = torch.randn(1, 64, generator=seeded()), torch.zeros(1, 64)
    targets[0, :20] = 1
    weights = torch.ones(1, 64)
    weights[0, 40:] = 0
    changed = cosine.clone()
    changed[0, 40:] = 9
    assert map_loss(cosine, targets, weights) == map_loss(changed, targets, weights)


def test_a_plane_of_one_class_has_no_gradient() -> None:
    cosine = torch.randn(1, 64, requires_grad=True)
    map_loss(cosine, torch.ones(1, 64), torch.ones(1, 64)).backward()
    assert cosine.grad is not None and not cosine.grad.any()


def test_targets_are_shares_of_known_cells() -> None:
    concept, known = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    concept[0, :2, :4] = 1  # half of the first patch
    known[0, :4, 4:] = 0
    concept[0, :4, 4:] = 1  # and all of one that is not known
    targets, weights = patch_targets(concept, known, 2)
    torch.testing.assert_close(targets, torch.tensor([[0.5, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.0, 1.0, 1.0]]))


def _told_apart(cosine: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of pairs of a structure's patch and another in which the former has the higher."""
    return float((cosine[targets > 0][:, None] > cosine[targets == 0]).float().mean())
