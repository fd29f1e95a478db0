"""From a language model to scores: what a ranker is, the rankers, a popularity prior."""
