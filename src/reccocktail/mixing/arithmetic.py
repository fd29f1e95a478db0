"""Merging LoRA adapters: pure, differentiable functions from tensors and coefficients to one LoRA.

An adapter changes a weight W (outputs, inputs) to W + s B A, with A (rank, inputs), B (outputs,
rank) and s = alpha / rank. `merge` is the only code of the project that merges, and `combine` gives
its LoRA alone:

- `delta`: the exact sum of updates, sum_i l_i s_i B_i A_i, as one LoRA of rank r_1 + r_2 + ...
  (A stacked, B scaled and stacked). The published code of the paper does this.
- `factor`: the factors are averaged, A = sum_i l_i A_i and B = sum_i l_i B_i (paper, Eq. 7). The
  rank stays r, and the product has cross terms l_1 l_2 (B_1 A_2 + B_2 A_1).
- `svd`: `delta`, compressed to the largest rank among the adapters.
- `linear`: PEFT's `add_weighted_adapter("linear")`: the factors are summed, each with the square
  root of its coefficient and scaling.
- `ties`, `dare`: see `mixing.sparse`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from reccocktail.errors import AdapterError
from reccocktail.mixing.sparse import dropped, ties, truncated_svd
from reccocktail.schema import Method
from reccocktail.training.adapter import Factors, Lora

METHODS: tuple[Method, ...] = get_args(Method)
DIFFERENTIABLE: tuple[Method, ...] = ("delta", "factor", "linear", "dare")
"""Methods that gradients of the coefficients flow through."""
_NOT_NEGATIVE = ("linear", "ties")  # one takes roots of coefficients, the other means by them


@dataclass(frozen=True)
class MergeOptions:
    """What a merge takes beside method and coefficients.

    Attributes:
        density: share of the entries that `ties` and `dare` keep, in (0, 1].
        rank: of the result of `svd` and `ties`, 1 or more; None for the largest among the adapters
            (`svd`) or their sum (`ties`).
        norm_matched: scale the merged update to the norm sum_i ||l_i s_i B_i A_i||. With one set of
            coefficients on the simplex this is the mean of the adapters' norms. Updates that point
            in different directions shrink when they are averaged; this takes the shrinking back.
        seed: of what `dare` drops.
    """

    density: float = 0.5
    rank: int | None = None
    norm_matched: bool = False
    seed: int = 0

    def check(self, method: Method) -> None:
        """Refuse what the method cannot do.

        Raises:
            AdapterError: a number is out of range, or the method does not read it.
        """
        if not 0 < self.density <= 1:
            raise AdapterError(f"The density must be above 0 and at most 1, not {self.density}.")
        if self.rank is not None and self.rank < 1:
            raise AdapterError(f"The rank of a merge must be 1 or more, not {self.rank}.")
        for name, asked, known in (
            ("rank", self.rank is not None, ("svd", "ties")),
            ("density", self.density != MergeOptions.density, ("ties", "dare")),
        ):
            if asked and method not in known:
                raise AdapterError(
                    f"Method '{method}' has no {name}; leave it out, or use {' or '.join(known)}."
                )


Coefficients = Tensor | Sequence[float] | Mapping[str, Tensor | Sequence[float]]
"""N numbers, one an adapter; or, by the name of the module, N for each."""


class Merged(NamedTuple):
    """A merged LoRA, and the share of the squared norm lost in compressing it, in [0, 1]."""

    lora: dict[str, Factors]
    lost_energy: float


def combine(
    adapters: Sequence[Lora],
    coefficients: Coefficients,
    method: Method = "delta",
    options: MergeOptions | None = None,
) -> dict[str, Factors]:
    """Merge adapters into one.

    A module that an adapter lacks counts as an update of zero. Ranks, alphas and target modules
    may differ.

    Args:
        adapters: N >= 1 LoRAs on the same backbone.
        coefficients: (N,), or one (N,) for each module, any finite numbers (`linear` and `ties`:
            not negative). The paper's are in [0, 1] with sum 1 (Eq. 6). Gradients flow through
            tensors for the methods in `DIFFERENTIABLE`.
        method: see above.
        options: see `MergeOptions`.

    Returns:
        One LoRA. A lone adapter with coefficient 1, the others 0, comes back as it is, bit for bit
        (`svd` gives it back in function, unless `rank` is below its own): there is nothing to be
        merged.

    Raises:
        AdapterError: no adapters, an unknown method, coefficients that are missing, not finite or
            of the wrong length, shapes that do not fit together, or options out of range.
    """
    return merge(adapters, coefficients, method, options).lora


def merge(
    adapters: Sequence[Lora],
    coefficients: Coefficients,
    method: Method = "delta",
    options: MergeOptions | None = None,
) -> Merged:
    """Merge adapters into one, and say what compression lost; see `combine`.

    Returns:
        The LoRA, and the lost share of the squared norm: 0 but for `svd` and `ties`.
    """
    options = options or MergeOptions()
    if not adapters:
        raise AdapterError("Nothing to mix: give at least one adapter.")
    if method not in METHODS:
        raise AdapterError(f"There is no method '{method}'; choose one of {', '.join(METHODS)}.")
    options.check(method)
    merged: dict[str, Factors] = {}
    sizes: list[Tensor] = []  # of l_i s_i B_i A_i: (adapters of the module,) squared norms
    lost = total = 0.0
    for module in sorted({name for lora in adapters for name in lora}):
        weights = _weights(coefficients, module, len(adapters), method)
        present = [
            (lora[module], weight)
            for lora, weight in zip(adapters, weights, strict=True)
            if module in lora
        ]
        _check(module, [factors for factors, _ in present])
        if options.norm_matched:
            sizes.append(_sizes(adapters, module, weights))
        if not weights.requires_grad:
            present = [(factors, weight) for factors, weight in present if weight != 0] or present[
                :1
            ]
        if len(present) == 1 and not present[0][1].requires_grad and present[0][1] == 1:
            merged[module] = present[0][0]
        else:
            merged[module], gone, whole = _merged_module(present, module, method, options)
            lost, total = lost + gone, total + whole
    share = lost / total if total else 0.0
    if method == "svd":
        largest = max(factors.a.shape[0] for lora in adapters for factors in lora.values())
        merged, share = compress(merged, options.rank or largest)
    if options.norm_matched:
        merged = _norm_matched(merged, torch.stack(sizes).sum(dim=0))
    return Merged(merged, share)


def _weights(coefficients: Coefficients, module: str, adapters: int, method: Method) -> Tensor:
    """The coefficients (adapters,) of one module, checked."""
    given = coefficients.get(module) if isinstance(coefficients, Mapping) else coefficients
    if given is None:
        raise AdapterError(f"There are no coefficients for the module '{module}'.")
    weights = given if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float32)
    if weights.shape != (adapters,):
        raise AdapterError(
            f"{adapters} adapters need {adapters} coefficients, not {tuple(weights.shape)}."
        )
    if not torch.isfinite(weights).all():
        raise AdapterError(f"Coefficients must be finite, not {weights.tolist()}.")
    if method in _NOT_NEGATIVE and bool((weights < 0).any()):
        raise AdapterError(
            f"Method '{method}' takes no negative coefficients, not {weights.tolist()}; "
            "use another one."
        )
    return weights


def _merged_module(
    parts: Sequence[tuple[Factors, Tensor]], module: str, method: Method, options: MergeOptions
) -> tuple[Factors, float, float]:
    """One module merged, the squared norm that this lost, and the whole one (`ties` alone)."""
    if method == "ties":
        rank = options.rank or sum(factors.a.shape[0] for factors, _ in parts)
        return truncated_svd(ties(parts, options.density), rank)
    if method in ("factor", "linear"):
        return _factor(parts, root=method == "linear"), 0.0, 0.0
    if method == "dare":
        parts = [(dropped(f, module, options.density, options.seed), w) for f, w in parts]
    return _delta(parts), 0.0, 0.0  # `svd` compresses all modules together afterwards


def _delta(parts: Sequence[tuple[Factors, Tensor]]) -> Factors:
    """sum_i l_i s_i B_i A_i as stacked factors: a (sum r_i, inputs), b (outputs, sum r_i)."""
    a = torch.cat([factors.a for factors, _ in parts], dim=0)
    b = torch.cat([weight * factors.scaling * factors.b for factors, weight in parts], dim=1)
    return Factors(a, b, 1.0)


def _factor(parts: Sequence[tuple[Factors, Tensor]], root: bool = False) -> Factors:
    """A = sum_i l_i A_i, B = sum_i l_i B_i (Eq. 7); smaller ranks are filled up with zeros.

    Where scalings differ, each factor takes the square root of its own, which for equal ones is
    Eq. 7 itself. With `root` each takes the square root of its coefficient too (PEFT's `linear`).
    """
    scalings = {factors.scaling for factors, _ in parts}
    common = scalings.pop() if len(scalings) == 1 else 1.0
    rank = max(factors.a.shape[0] for factors, _ in parts)
    a: Tensor | float = 0.0
    b: Tensor | float = 0.0
    for factors, weight in parts:
        missing = rank - factors.a.shape[0]
        share = (weight.sqrt() if root else weight) * (factors.scaling / common) ** 0.5
        a = a + share * torch.nn.functional.pad(factors.a, (0, 0, 0, missing))
        b = b + share * torch.nn.functional.pad(factors.b, (0, missing))
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    return Factors(a, b, common)


def compress(lora: Lora, rank: int) -> tuple[dict[str, Factors], float]:
    """Best approximation of each update at `rank` (truncated SVD), and the energy it loses.

    The best in the Frobenius norm (Eckart-Young). The SVD runs on the small core of two QR
    factorisations, never on the full weight.

    Returns:
        The LoRA, and the lost share of the summed squared Frobenius norms, in [0, 1].
    """
    small: dict[str, Factors] = {}
    lost = total = 0.0
    for module, (a, b, scaling) in lora.items():
        q_b, r_b = torch.linalg.qr(b.double() * scaling)
        q_a, r_a = torch.linalg.qr(a.double().T)
        u, s, vt = torch.linalg.svd(r_b @ r_a.T)
        kept = min(rank, len(s))
        root = s[:kept].sqrt()
        small[module] = Factors(
            (root[:, None] * (vt[:kept] @ q_a.T)).to(a.dtype),
            ((q_b @ u[:, :kept]) * root).to(b.dtype),
            1.0,
        )
        total += float(s.square().sum())
        lost += float(s[kept:].square().sum())
    return small, lost / total if total else 0.0


def _sizes(adapters: Sequence[Lora], module: str, weights: Tensor) -> Tensor:
    """||l_i s_i B_i A_i||^2 of each adapter (adapters,), 0 where it lacks the module."""
    found = [
        weight.square() * _inner(lora[module], lora[module]) if module in lora else weight * 0
        for lora, weight in zip(adapters, weights, strict=True)
    ]
    return torch.stack([size.to(weights) for size in found])


def _norm_matched(lora: dict[str, Factors], sizes: Tensor) -> dict[str, Factors]:
    """Scale an update to the sum of the roots of `sizes` (adapters,)."""
    own = torch.stack([_inner(factors, factors).to(sizes) for factors in lora.values()]).sum()
    if not own > 0 or int((sizes > 0).sum()) < 2:  # nothing to be scaled, or a lone adapter
        return lora
    scale = sizes[sizes > 0].sqrt().sum() / own.sqrt()
    return {m: Factors(f.a, f.b * scale.to(f.b), f.scaling) for m, f in lora.items()}


def update_norm(lora: Lora) -> float:
    """Frobenius norm of the whole update, sqrt(sum over modules of ||s B A||^2)."""
    return math.sqrt(max(sum(float(_inner(f, f)) for f in lora.values()), 0.0))


def update_cosine(one: Lora, other: Lora) -> float:
    """Cosine of two whole updates, -1 to 1; 0 if one of them is 0.

    What a mix adds up: near 1 the updates say the same, near 0 they change other directions, and
    their average is shorter than both.
    """
    shared = one.keys() & other.keys()
    inner = sum(float(_inner(one[module], other[module])) for module in shared)
    norms = update_norm(one) * update_norm(other)
    return inner / norms if norms else 0.0


def _inner(one: Factors, other: Factors) -> Tensor:
    """<s B A, s' B' A'> = s s' tr(A A'^T B'^T B): rank x rank products, not the full weights."""
    product = (one.a @ other.a.T) * (one.b.T @ other.b)
    found: Tensor = one.scaling * other.scaling * product.sum()
    return found


def _check(module: str, factors: Sequence[Factors]) -> None:
    shapes = {(f.b.shape[0], f.a.shape[1]) for f in factors}
    if len(shapes) > 1:
        raise AdapterError(
            f"The adapters change '{module}' in different shapes {sorted(shapes)}; "
            "mix adapters of one backbone."
        )
