"""The README that travels with every adapter."""

from reccocktail.training.adapter import Card

_TITLES = {"base": "Base spirit", "ingredient": "Ingredient", "cocktail": "Cocktail"}


def adapter_readme(name: str, card: Card, body: str = "") -> str:
    """Model card in Markdown: what the adapter is, what it was made from, how to load it."""
    backbone, recipe = card.backbone, card.recipe
    data = "\n".join(
        f"- {d.name}: {d.users:,} training users, {d.items:,} items (SHA-256 `{d.sha256[:16]}`)"
        for d in card.data
    )
    start = (
        f"\nTraining went on from the adapter with SHA-256 `{card.initial_sha256[:16]}`.\n"
        if card.initial_sha256
        else ""
    )
    if card.beside_sha256:
        start += (
            f"\nIt was trained beside the adapter with SHA-256 `{card.beside_sha256[:16]}` and is\n"
            "meant to be added to it, with the coefficients 1 and 1.\n"
        )
    return f"""---
library_name: peft
base_model: {backbone.name}
tags: [recommendation, lora, reccocktail]
---
# {_TITLES[card.role]} `{name}`

A LoRA adapter of RecCocktail {card.version} for the `{recipe.ranker}` ranker on `{backbone.name}`
(SHA-256 `{backbone.sha256[:16]}`).

Made with:

{data}
{start}
Histories are read up to their last {recipe.prompt.max_history} titles, titles up to
{recipe.prompt.title_tokens} tokens, template `{recipe.prompt.template}`
(SHA-256 `{card.template_sha256[:16]}`).
{body}
It is a stock PEFT adapter: `peft.PeftModel.from_pretrained(backbone, "{name}")` loads it.
`adapter.json` holds every setting. Titles and users of the data above shape what it recommends; it
knows nothing else of an item than its title.
"""
