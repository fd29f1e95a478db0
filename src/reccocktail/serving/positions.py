"""A served cocktail at other coefficients: a few positions between base spirit and ingredient.

A position is a `Served` of its own, merged by `combine` and encoded when it is first asked for, one
after the other and beside the requests. What that costs is bounded: so many positions, one at a
time, in catalogues that are not too large; item vectors come from the cache on disk if it has them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reccocktail.backbone import Backbone
from reccocktail.errors import DataError, RecCocktailError, RunError
from reccocktail.mixing.arithmetic import METHODS, MergeOptions, combine
from reccocktail.mixing.search import GRID
from reccocktail.mixing.sheet import options_of, sums_to_one
from reccocktail.serving.batching import ClosedError
from reccocktail.serving.logs import unexpected
from reccocktail.serving.served import Served, encoded
from reccocktail.serving.weights import Models
from reccocktail.training.adapter import Adapter

MOST_ITEMS = 20_000  # beyond, encoding a position takes a CPU many minutes
KEPT = 16  # positions in memory
_KNOWN = 1024  # cocktails whose parents were looked for


class PreparingError(RunError):
    """A position is being encoded; the answer comes if one asks again."""

    retry_after = 1

    def __init__(self, share: float) -> None:
        self.share = share
        super().__init__(f"This mix is being prepared ({share:.0%}); ask again in a second.")


@dataclass(frozen=True)
class Parents:
    """What a cocktail was mixed from.

    Attributes:
        folders: of two adapters; by custom the base spirit first.
        sha256: their hashes.
        method: how they are merged.
        options: of the method.
        chosen: the first coefficient of the cocktail; None if it has more than one pair, or one
            that does not lie between the adapters.
    """

    folders: tuple[Path, Path]
    sha256: tuple[str, str]
    method: Any
    options: MergeOptions
    chosen: float | None

    def adapters(self) -> list[Adapter]:
        """Both, loaded.

        Raises:
            RunError: one is another now.
            AdapterError: one is damaged or gone.
        """
        found = [Adapter.load(folder) for folder in self.folders]
        for folder, adapter, sha256 in zip(self.folders, found, self.sha256, strict=True):
            if adapter.sha256 != sha256:
                raise RunError(
                    f"{folder} is not the adapter that the cocktail was mixed from any more; "
                    "mix the cocktail again."
                )
        return found


class Positions:
    """The positions of all domains of a service."""

    def __init__(
        self, backbone: Backbone, models: Models, folders: Callable[[str], Iterable[Path]]
    ) -> None:
        """Start with none; `folders(domain)` names adapter folders near which parents may lie."""
        self._backbone, self._models, self._folders = backbone, models, folders
        self._worker = ThreadPoolExecutor(1, "positions")
        self._lock = threading.Lock()
        self._parents: OrderedDict[int, Parents | None] = OrderedDict()  # by serial
        self._ready: OrderedDict[tuple[int, float], Served] = OrderedDict()
        self._shares: dict[tuple[int, float], float] = {}  # of those under way, in [0, 1]
        self._failed: dict[tuple[int, float], RecCocktailError] = {}
        self._closed = False

    def of(self, state: Served) -> list[tuple[float, float]]:
        """The coefficients that can be asked for, ascending in the first.

        Empty if the adapter is no cocktail of two, its parents are not at hand, or the catalogue is
        too large.
        """
        parents = self._parents_of(state)
        if parents is None or len(state.ids) > MOST_ITEMS:
            return []
        firsts = {*GRID} if parents.chosen is None else {*GRID, parents.chosen}
        return [(first, round(1 - first, 6)) for first in sorted(firsts)]

    def at(self, state: Served, coefficients: Sequence[float]) -> Served:
        """The domain at a position; the state itself at the cocktail's own coefficients.

        Raises:
            DataError: no such position.
            PreparingError: it is not ready yet.
            ClosedError: the service is shutting down.
            RecCocktailError: it could not be prepared; the next call tries again.
        """
        asked, there = tuple(coefficients), self.of(state)
        if asked not in there:
            known = ", ".join(f"[{a:g}, {b:g}]" for a, b in there)
            way_out = f"choose of {known}" if there else "it has no other mix, so leave them out"
            raise DataError(f"{state.name} is not mixed at these coefficients; {way_out}.")
        parents = self._parents_of(state)
        assert parents is not None
        if asked[0] == parents.chosen:
            return state
        key = state.serial, asked[0]
        with self._lock:
            if self._closed:
                raise ClosedError
            if key in self._failed:
                raise self._failed.pop(key)
            ready = self._ready.get(key)
            if ready is not None and ready.added.height >= state.added.height:
                self._ready.move_to_end(key)
                return ready
            if key not in self._shares:
                self._shares[key] = 0.0
                self._worker.submit(self._prepare, key, state, parents, ready)
            raise PreparingError(self._shares[key])

    def close(self) -> None:
        """Prepare no more; what is under way is given up."""
        with self._lock:
            self._closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _prepare(
        self, key: tuple[int, float], state: Served, parents: Parents, former: Served | None
    ) -> None:
        error: RecCocktailError | None = None
        try:
            position = former or self._encode(key, state, parents)
            position = position.with_items(state.added[position.added.height :], self._models)
        except RecCocktailError as known:
            error = known
        except Exception as unknown:  # a thread has nobody else to tell
            unexpected(unknown, domain=state.name)
            error = RunError(f"The mix failed with {type(unknown).__name__}; try again.")
        with self._lock:
            del self._shares[key]
            if error is not None:
                self._failed[key] = error
                return
            self._ready[key] = position
            self._ready.move_to_end(key)
            while len(self._ready) > KEPT:
                self._ready.popitem(last=False)

    def _encode(self, key: tuple[int, float], state: Served, parents: Parents) -> Served:
        first, done = key[1], 0
        base, ingredient = parents.adapters()
        pair = torch.tensor([first, 1 - first])
        lora = combine([base.lora, ingredient.lora], pair, parents.method, parents.options)
        name = f"{first:g} {base.name} + {1 - first:g} {ingredient.name}"
        name = {0.0: ingredient.name, 1.0: base.name}.get(first, name)

        def tick(more: int) -> None:
            nonlocal done
            if self._closed:
                raise ClosedError
            done += more
            self._shares[key] = done / len(state.domain.item_ids)

        adapter = Adapter(name, lora, state.adapter.card)
        folder = state.adapter_folder
        return encoded(
            state.name, state.domain, adapter, folder, self._backbone, self._models, tick
        )

    def _parents_of(self, state: Served) -> Parents | None:
        with self._lock:
            if state.serial in self._parents:
                return self._parents[state.serial]
        try:
            parents = _parents(state.cocktail, [state.adapter_folder, *self._folders(state.name)])
        except (LookupError, TypeError, ValueError):  # a sheet that `mix` did not write
            parents = None
        with self._lock:
            self._parents[state.serial] = parents
            while len(self._parents) > _KNOWN:
                self._parents.popitem(last=False)
        return parents


def _parents(sheet: dict[str, Any] | None, near: Sequence[Path]) -> Parents | None:
    """What a sheet says that its cocktail was mixed from, if both folders are found."""
    if sheet is None or len(sheet["adapters"]) != 2 or sheet["method"] not in METHODS:
        return None
    wanted = [(entry["name"], entry["sha256"]) for entry in sheet["adapters"]]
    first, second = (_find(*entry, near) for entry in wanted)
    if first is None or second is None:
        return None
    rows = list(sheet["coefficients"].values())
    chosen = round(float(rows[0][0]), 6) if len(rows) == 1 and sums_to_one(rows[0]) else None
    hashes = wanted[0][1], wanted[1][1]
    return Parents((first, second), hashes, sheet["method"], options_of(sheet), chosen)


def _find(name: str, sha256: str, near: Sequence[Path]) -> Path | None:
    """Where an adapter of this name and hash lies, among folders and those beside them."""
    if Path(name).name != name:
        return None
    beside = [folder if folder.name == name else folder.parent / name for folder in near]
    for folder in dict.fromkeys(beside):
        try:
            adapter = Adapter.load(folder)
        except (RecCocktailError, OSError):  # whatever lies there, it is not the parent
            continue
        if adapter.sha256 == sha256:
            return folder
    return None
