"""A popularity prior beside the language model: affinity comes from text, popularity from counts.

scores + weight * prior, where prior(item) = log(training count) less its mean over the items that
have one. An item without training interactions gets 0, the average item's prior: being new is no
fault. The weight is chosen on validation users, see `ranking.additions`.
"""

import numpy as np
from numpy.typing import NDArray

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)


def popularity_prior(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Prior (items,) in nats from training counts (items,); 0 for items without interactions."""
    seen = counts > 0
    logs = np.log(np.maximum(counts, 1).astype(np.float64))
    centre = float(logs[seen].mean()) if seen.any() else 0.0
    return np.where(seen, logs - centre, 0.0)
