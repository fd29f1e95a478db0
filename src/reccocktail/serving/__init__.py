"""From a trained adapter to recommendations for a user."""
