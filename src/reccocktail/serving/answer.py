"""A ranking with its reasons, as JSON and as lines of text."""

from collections.abc import Sequence
from typing import Any

from reccocktail.serving.explain import Explanation
from reccocktail.serving.recommend import Recommendation, Recommender

_SHOWN = 3  # items that a score rests on, in text; JSON has all


def as_json(
    recommender: Recommender,
    history: Sequence[str],
    places: Sequence[Recommendation],
    explanations: Sequence[Explanation] | None,
) -> dict[str, Any]:
    """The answer as a JSON object.

    Args:
        recommender: which made it.
        history: item ids, oldest first.
        places: the ranking.
        explanations: of the places; None leaves the field `explanation` out.
    """
    titles = recommender.titles_of(history)
    told = [{"item_id": item, "title": t} for item, t in zip(history, titles, strict=True)]
    answer: dict[str, Any] = {"history": told, "recommendations": [dict(vars(p)) for p in places]}
    if explanations is None:
        return answer
    answer["explanation_template_sha256"] = (
        recommender.writer.explainer.template_sha256 if recommender.writes else None
    )
    for row, explanation in zip(answer["recommendations"], explanations, strict=True):
        reason = explanation.reason
        row["explanation"] = {
            "influences": [dict(vars(influence)) for influence in explanation.influences],
            "reason": None
            if reason is None
            else {
                "text": reason.text,
                "cited": told[reason.cited],
                "continuation": reason.continuation,
                "faults": list(reason.faults),
            },
        }
    return answer


def explanation_lines(place: Recommendation, explanation: Explanation) -> list[str]:
    """An explanation as lines for a terminal."""
    lines = [f"{place.rank}. {place.title}"]
    if explanation.influences:
        shown = explanation.influences[:_SHOWN]
        lines.append(
            "   rests on " + ", ".join(f'"{item.title}" ({item.change:+.3f})' for item in shown)
        )
    else:
        lines.append("   rests on the one item of the history")
    if explanation.reason is not None:
        lines.append(f"   {explanation.reason.text}")
    return lines
