"""What the tests of the service share: two domains with adapters on one pico backbone."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.schema import CATEGORIES
from reccocktail.serving.limits import Limits
from reccocktail.serving.paths import Allowed
from reccocktail.serving.service import Service
from tests.adapters import random_adapter, save
from tests.domains import taste_domain, taste_of
from tests.helpers import changed
from tests.pico import pico_backbone

KINDS = ("food", "story", "goods", "sky")


@dataclass
class Kitchen:
    """Folders of two domains, `tastes` (with categories) and `small`, and of three adapters."""

    root: Path
    backbone: Backbone
    tastes: Domain
    small: Domain
    adapters: dict[str, Path]

    def service(self, state: Path | None = None, **limits: object) -> Service:
        """A service with `tastes`, adapted by `one`."""
        settings = Limits(**({"timeout": 20.0} | limits))
        service = Service(
            self.backbone,
            settings,
            state=state,
            allowed=Allowed(self.root, {"base_spirit": self.adapters["one"]}),
        )
        service.changing.plug("tastes", self.tastes.path, self.adapters["one"])
        return service


def kitchen(folder: Path) -> Kitchen:
    """Make everything below `folder`."""
    backbone = pico_backbone()
    plain = taste_domain(folder / "plain", users=60)
    kinds = [KINDS[taste_of(title)] for title in plain.titles]
    # As a film has genres: one of its own, one that all share.
    tastes = changed(
        plain,
        folder / "tastes",
        items=lambda rows: rows.with_columns(
            pl.Series(CATEGORIES, [f"All|{kind.title()}" for kind in kinds])
        ),
    )
    small = taste_domain(folder, name="small", tastes=2, users=40, seed=5)
    adapters = {
        name: save(random_adapter(backbone, tastes, name, seed=seed), folder)
        for name, seed in (("one", 1), ("two", 2), ("three", 3))
    }
    return Kitchen(folder, backbone, tastes, small, adapters)
