"""How fast this machine reads with a backbone."""

import time

from reccocktail.backbone import Backbone
from reccocktail.data.domain import sample_rows
from reccocktail.progress import bar
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue
from reccocktail.training.model import scoring

_WARM_UP, _AT_ONCE, _USERS = 4, 16, 128
_SECONDS = 5.0  # long enough to be within a few percent of the next measurement


def tokens_per_second(backbone: Backbone, catalogue: Catalogue[DenseRanker]) -> float:
    """Tokens a second, measured on users' histories for about five seconds.

    Args:
        backbone: read without an adapter; a merged one costs the same.
        catalogue: a domain with at least one training user.
    """
    ranker, device = catalogue.ranker, backbone.device
    rows = sample_rows(catalogue.domain.train(), _USERS, seed=0)
    histories = [ranker.recent(history) for history in catalogue.histories(rows)]
    tokens = seconds = 0.0
    with scoring(backbone, None) as model, bar("Measuring the machine", _SECONDS) as advance:
        ranker.user_vectors(model, histories[:_WARM_UP], device)
        for start in range(0, len(histories), _AT_ONCE):
            some = histories[start : start + _AT_ONCE]
            started = time.perf_counter()
            ranker.user_vectors(model, some, device)
            passed = time.perf_counter() - started
            tokens += sum(len(title) + 1 for history in some for title in history)
            advance(min(passed, max(_SECONDS - seconds, 0.0)))
            seconds += passed
            if seconds >= _SECONDS:
                break
    return tokens / seconds
