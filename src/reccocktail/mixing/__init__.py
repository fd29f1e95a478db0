"""From several adapters to one: merging, the search for coefficients, the cocktail."""
