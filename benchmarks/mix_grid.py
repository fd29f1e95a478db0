"""A grid of mixes, each measured once on unlabelled, validation and test users, and kept.

What `remedies.py` and `adaptation.py` compare is arithmetic on these scores. By text alone: the
popularity prior is not added.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cells import other_settings, precision_facts
from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.errors import RunError
from reccocktail.evaluation.metrics import FloatArray, per_user, ranks
from reccocktail.mixing.arithmetic import MergeOptions
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.entropy import as_matrix, mutual_information
from reccocktail.mixing.measure import Mixer, MixSettings
from reccocktail.mixing.objectives import MeasuredMix
from reccocktail.mixing.search import Groups
from reccocktail.ranking.scoring import Scored, positive_columns, score
from reccocktail.schema import USER, Scenario
from reccocktail.storage import atomic_file, sha256_json
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import model_sha256, scoring

SPACES = ("simplex", "off-simplex", "norm-matched", "per-layer")
TABLES = ("unlabelled", "valid", "test")


@dataclass(frozen=True)
class Sizes:
    """Users of each table, the seed that draws them, the grid's fineness and its spaces."""

    unlabelled: int = 200
    valid: int = 500
    test: int = 2000
    grid: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    scales: tuple[float, ...] = (0.5, 1.5, 2.0)
    spaces: tuple[str, ...] = SPACES
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One mix: scores (users, candidates) and the ranker's entropies (users,) of each table."""

    name: str
    space: str
    coefficients: list[float] | None
    scores: dict[str, FloatArray]
    entropy: dict[str, FloatArray]
    information: float


class Grid:
    """The mixes of a base spirit and an ingredient for one scenario of a domain."""

    def __init__(
        self,
        pair: Sequence[Adapter],
        backbone: Backbone,
        domain: Domain,
        scenario: Scenario,
        sizes: Sizes,
        out: Path,
    ) -> None:
        """Draw the users: test users are none of the unlabelled ones."""
        self.pair, self.backbone, self.domain, self.out = list(pair), backbone, domain, out
        self.scenario, self.sizes = scenario, sizes
        self.settings = MixSettings(
            users=sizes.unlabelled, validation_users=sizes.valid, seed=sizes.seed
        )
        self.mixer = Mixer(pair, backbone, domain, scenario, self.settings)
        unlabelled = self.mixer.unlabelled
        rest = domain.rows(f"test_{scenario}").filter(
            ~pl.col(USER).is_in(unlabelled[USER].to_list())
        )
        test = sample_rows(rest, sizes.test, sizes.seed)
        self.rows = dict(zip(TABLES, (unlabelled, self.mixer.labelled, test), strict=True))
        if not self.rows["valid"].height or not test.height:
            raise RunError(f"{domain.name} has too few {scenario} users for a grid of mixes.")
        self.positive: dict[str, NDArray[np.int64]] = {
            name: positive_columns(rows) for name, rows in self.rows.items()
        }
        facts = [domain.sha256, backbone.fingerprint.sha256, *(a.sha256 for a in pair)]
        self.identity = sha256_json([*facts, asdict(sizes), *precision_facts(backbone).values()])

    def cells(self) -> list[Cell]:
        """Every mix, taken from `out` where it was measured before.

        Raises:
            RunError: `out` holds a grid of other settings, data or adapters.
        """
        grid = self.sizes.grid
        pairs: list[tuple[str, list[float] | None]] = []
        for first in grid:
            pairs.append(("simplex", [first, 1 - first]))
            if 0 < first < 1:
                pairs.append(("norm-matched", [first, 1 - first]))
        for scale in self.sizes.scales:
            for first in grid[:: max(1, len(grid) // 4)]:
                pairs.append(("off-simplex", [scale * first, scale * (1 - first)]))
        pairs.append(("per-layer", None))
        names = [_name(*pair) for pair in pairs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise RunError(f"Two mixes of the grid are '{twice}' by two decimals; make it coarser.")
        return [self._cell(space, pair) for space, pair in pairs if space in self.sizes.spaces]

    def _lora(self, space: str, coefficients: list[float] | None) -> Lora:
        if coefficients is None:
            folder = self.out / "per_layer_mix"
            settings = replace(self.settings, granularity="layer")
            adapters, scenario = self.pair, self.scenario
            return mix(adapters, self.backbone, self.domain, scenario, folder, settings).lora
        matched = MergeOptions(norm_matched=space == "norm-matched")
        self.mixer.settings = replace(self.settings, options=matched)
        groups = Groups.build([a.lora for a in self.pair], "global")
        return self.mixer.merged_lora(torch.tensor([coefficients]), groups)

    def _cell(self, space: str, coefficients: list[float] | None) -> Cell:
        name = _name(space, coefficients)
        file = self.out / f"{name.replace(' ', '_').replace('/', '_')}.npz"
        if not file.exists():
            lora = self._lora(space, coefficients)
            identity = model_sha256(self.backbone, lora)  # warm and cold share items
            with scoring(self.backbone, lora) as model:
                scored = score(
                    model,
                    self.mixer.catalogue,
                    [self.rows[t] for t in TABLES],
                    f"Mix {name}",
                    model_sha256=identity,
                )
            arrays = {"identity": np.array(self.identity)}
            for table, part in zip(TABLES, scored, strict=True):
                arrays |= {f"{table}_scores": np.stack(part.scores),
                           f"{table}_entropy": part.entropy.double().numpy()}  # fmt: skip
            arrays["information"] = np.array(mutual_information(scored[0].common()))
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(file) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, **arrays)
        with np.load(file) as kept:
            if str(kept["identity"]) != self.identity:
                raise other_settings(self.out, [])
            return Cell(
                name,
                space,
                coefficients,
                {table: kept[f"{table}_scores"] for table in TABLES},
                {table: kept[f"{table}_entropy"] for table in TABLES},
                float(kept["information"]),
            )

    def quality(self, cell: Cell) -> dict[str, FloatArray]:
        """Metrics of each test user."""
        return per_user(ranks(list(cell.scores["test"]), self.positive["test"]))

    def points(
        self,
        cells: Sequence[Cell],
        users: NDArray[np.int64] | None = None,
        of: str = "unlabelled",
        labelled: NDArray[np.int64] | None = None,
    ) -> list[MeasuredMix]:
        """What a search would know of each mix if it looked at these users of the table `of`.

        `labelled` are the validation users that it may look at; None for all.
        """
        points = []
        those = slice(None) if labelled is None else labelled
        for cell in cells:
            chosen = slice(None) if users is None else users
            scores = list(cell.scores[of][chosen])
            entropy = torch.from_numpy(cell.entropy[of][chosen])
            seen = Scored(scores, entropy, partial(as_matrix, scores))
            known = Scored(
                list(cell.scores["valid"][those]), torch.empty(0), lambda: torch.empty(0)
            )
            point = MeasuredMix.of(cell.coefficients, seen, known, self.positive["valid"][those])
            point.mutual_information = cell.information if users is None else float("nan")
            points.append(point)
        alone = [
            next(p for p, c in zip(points, cells, strict=True) if _is(c, "simplex", unit))
            for unit in ([1.0, 0.0], [0.0, 1.0])
        ]
        for point in points:
            point.compare_with_adapters(alone)
        return points


def _is(cell: Cell, space: str, coefficients: list[float]) -> bool:
    return cell.space == space and cell.coefficients == coefficients


def cell_at(cells: Sequence[Cell], coefficients: list[float]) -> Cell:
    """The simplex point with these coefficients."""
    return next(cell for cell in cells if _is(cell, "simplex", coefficients))


def _name(space: str, coefficients: Sequence[float] | None) -> str:
    lambdas = "" if coefficients is None else " " + "/".join(f"{c:.2f}" for c in coefficients)
    return space + lambdas
