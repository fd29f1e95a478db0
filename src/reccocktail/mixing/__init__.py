"""Mixing adapters into a cocktail. Start at `cocktail.mix`: it is the whole method in one function.

| module | what it does |
|---|---|
| `cocktail` | `mix`: check, search coefficients, merge, write the adapter (paper, Eq. 6-9) |
| `arithmetic` | merge LoRA factors with given coefficients (Eq. 6, 7); `sparse`: TIES and DARE |
| `entropy` | how sure a model is (Eq. 8), and when that is not to be trusted |
| `objectives` | what a search may minimise, by name |
| `search` | minimise it, on a line or by gradient (Eq. 9), through a `functional` model |
| `measure` | score a mix on a domain's users; `batch_loss`: a few of them, with gradient |
| `sheet` | `cocktail.json`: what was mixed, how, and for whom |
"""
