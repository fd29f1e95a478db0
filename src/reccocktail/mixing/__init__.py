"""Mixing adapters into a cocktail, to be read in the order of the data.

`arithmetic` merges LoRA tensors with coefficients (Eq. 6 and 7); `entropy` says how sure a model is
(Eq. 8) and when that is not to be trusted; `search` finds coefficients that minimise it (Eq. 9);
`measure` runs a mix on a domain's users, `batch_loss` on a few of them with gradient; `cocktail`
puts all together and writes the adapter, whose `sheet` says how it was found.
"""
