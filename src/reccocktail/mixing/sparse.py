"""Merges that first thin out the updates: TIES and DARE. Pure functions on one module.

Neither is the paper's; they are baselines. Both look at how adapters disturb each other, `ties` by
taking out what is small or disagrees in sign, `dare` by taking out at random.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from reccocktail.training.adapter import Factors


def ties(parts: Sequence[tuple[Factors, Tensor]], density: float) -> Tensor:
    """Trim, elect signs, disjoint mean (Yadav et al. 2023, arXiv 2306.01708), for one module.

    1. Of each update s_i B_i A_i the `density` share with the largest magnitudes stays.
    2. Each entry takes the sign of sum_i l_i u_i.
    3. It becomes the mean of the updates that have this sign there, weighted by l_i.

    So coefficients are relative: multiplying all of them by one number changes nothing. Equal ones
    are TIES as published at scale 1.

    Args:
        parts: factors of the module and coefficient (a scalar, not negative) of each adapter.
        density: share that stays, in (0, 1].

    Returns:
        The dense update (outputs, inputs), of full rank in general.
    """
    updates = torch.stack([_trimmed(f.scaling * (f.b @ f.a), density) for f, _ in parts])
    weights = torch.stack([weight for _, weight in parts]).to(updates)[:, None, None]
    elected = (weights * updates).sum(dim=0).sign()
    agreeing = weights * (updates.sign() == elected) * (updates != 0)
    total = agreeing.sum(dim=0)
    mean: Tensor = (agreeing * updates).sum(dim=0) / total.where(total > 0, torch.ones_like(total))
    return mean


def _trimmed(update: Tensor, density: float) -> Tensor:
    kept = max(1, int(density * update.numel()))
    places = update.abs().flatten().topk(kept).indices
    mask = torch.zeros(update.numel(), dtype=update.dtype, device=update.device)
    mask[places] = 1
    return update * mask.reshape(update.shape)


def dropped(factors: Factors, module: str, density: float, seed: int) -> Factors:
    """Drop entries of both factors at random and rescale the rest (Yu et al. 2024, 2311.03099).

    An entry of A or B stays with probability `density` and is divided by it, so the expectation of
    the update is the update. Dropping in the factors, as PEFT does, keeps the rank.

    Args:
        factors: one module of one adapter.
        module: its name.
        density: share that stays, in (0, 1].
        seed: with the module's name and the factors themselves it decides what is dropped: never
            the order in which adapters are given.
    """
    if density >= 1:
        return factors
    a, b = factors.a.detach().float().cpu(), factors.b.detach().float().cpu()
    digest = hashlib.sha256(f"{seed} {module}".encode())
    for tensor in (a, b):
        digest.update(tensor.contiguous().numpy().tobytes())
    generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()[:7], "big"))
    masks = [(torch.rand(t.shape, generator=generator) < density) / density for t in (a, b)]
    return Factors(factors.a * masks[0].to(factors.a), factors.b * masks[1].to(factors.b),
                   factors.scaling)  # fmt: skip


def truncated_svd(update: Tensor, rank: int) -> tuple[Factors, float, float]:
    """The best LoRA of a dense update (outputs, inputs), in the Frobenius norm.

    A TIES update has full rank, so there are no factors to decompose as `arithmetic.compress` does.
    Only the largest `rank` singular values are needed: they come from the eigenvectors of the
    smaller of U U^T and U^T U, U the update, in float64.

    Args:
        update: U.
        rank: of the factors, 1 or more.

    Returns:
        The factors, the squared norm that is lost, and the squared norm of the update.
    """
    dense = update.double()
    wide = dense.shape[0] <= dense.shape[1]
    gram = dense @ dense.T if wide else dense.T @ dense
    kept = min(rank, len(gram))
    values, vectors = torch.linalg.eigh(gram)  # ascending
    top = vectors[:, -kept:].flip(1)
    a, b = (top.T @ dense, top) if wide else (top.T, dense @ top)
    total = float(dense.square().sum())
    lost = max(0.0, total - float(values[-kept:].clamp(min=0).sum()))
    return Factors(a.to(update.dtype), b.to(update.dtype), 1.0), lost, total
