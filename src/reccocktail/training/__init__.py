"""From histories to an adapter: batches, the training loop, its log, adapter folders."""
