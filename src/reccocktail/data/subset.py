"""Less training data, the same test: what a few of a domain's users would have taught."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from reccocktail.data.domain import MANIFEST, TABLES, Domain
from reccocktail.data.prepare import check_out, write_table
from reccocktail.errors import DataError
from reccocktail.schema import HISTORY
from reccocktail.storage import atomic_dir, sha256_file, write_json


def subset(domain: Domain, fraction: float, out: Path, seed: int = 0) -> Domain:
    """Write a prepared folder with a random share of the domain's training users.

    Items, evaluation rows and candidates stay as they are, bit for bit, so that models of different
    shares are judged on the same rows. Shares of one seed are nested: the users of a smaller one
    are among those of a larger one. A warm item may thus have no training interaction left; it is
    still called warm.

    Args:
        domain: a prepared domain.
        fraction: share of the training users, in (0, 1]; at least one user is kept.
        out: folder to write; an older prepared folder there is replaced as a whole.
        seed: draws the users.

    Returns:
        The new domain, under the old one's name; its manifest holds the old one's hash.

    Raises:
        DataError: `fraction` or `seed` is out of range, or `out` holds other files or the domain.
        RunError: `out` cannot be written.
    """
    if not 0 < fraction <= 1:
        raise DataError(f"The share of training users is {fraction} and must be above 0, up to 1.")
    if seed < 0:
        raise DataError(f"Seed is {seed} and must not be negative.")
    out = Path(out)
    check_out(out, (domain.path / MANIFEST,))
    train = domain.train()
    kept = max(1, round(fraction * train.height))
    drawn = np.sort(np.random.default_rng(seed).permutation(train.height)[:kept])
    with atomic_dir(out) as folder:
        for table in TABLES:
            file = f"{table}.parquet"
            if table == "train" and kept < train.height:
                train = train.select(pl.all().gather(drawn))
                write_table(train, folder / file)
            else:
                shutil.copyfile(domain.path / file, folder / file)
        manifest = domain.manifest | {
            "rows": domain.manifest["rows"] | {"train": kept},
            "train_interactions": int(train[HISTORY].list.len().sum()),
            "subset": {"of": domain.sha256, "fraction": fraction, "seed": seed},
            "outputs": {file.name: sha256_file(file) for file in sorted(folder.glob("*.parquet"))},
        }
        write_json(folder / MANIFEST, manifest)
    return Domain.load(out)
