"""The picture of `paper_table.py`: what each row gains over the better single adapter."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reccocktail.evaluation.plots import ACCENT, COOL, INK, MUTED, STYLE, new_figure
from table_report import HEADLINE, SINGLE
from table_rows import BASE, BY_NAME
from table_target import COLD, WARM

LIMITS = (-0.26, 0.14)
"""Of NDCG@10; what lies outside is drawn as an arrow at the edge."""
_COLOURS = {WARM: ACCENT, COLD: COOL}
_SHIFT = 0.17  # rows between a row's place and its two points


def gaps_figure(targets: Mapping[str, Any], view: str, rows: Sequence[str]) -> Figure:
    """Paired difference of each row from the better single adapter, a panel a target.

    Args:
        targets: name -> a target of a paper_table.json.
        view: how candidates are ranked, one of its views.
        rows: to be drawn, from top to bottom; those that no target has are left out.
    """
    found = {name: _gaps(target, view) for name, target in targets.items()}
    drawn = [row for row in rows if any(row in gaps for gaps in found.values())]
    with rc_context(STYLE):
        figure = new_figure(7.2, 0.9 + 0.2 * len(drawn))
        panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
        for panel, (name, gaps) in zip(panels, found.items(), strict=True):
            _draw(panel, gaps, drawn)
            panel.set_title(f"{name}: {HEADLINE.upper()} less {_reference(targets[name], view)}'s")
            panel.set_xlim(*LIMITS)
            panel.tick_params(axis="y", length=0)
            panel.spines["left"].set_visible(False)
            panel.grid(True, axis="x")
            panel.set_axisbelow(True)
        panels[0].set_yticks(range(len(drawn)), [row.replace("_", " ") for row in drawn])
        for label, row in zip(panels[0].get_yticklabels(), drawn, strict=True):
            label.set_color(MUTED if BY_NAME[row].kind == "baseline" or row == BASE else INK)
        panels[0].set_ylim(len(drawn) - 0.4, -0.6)
        handles = [
            panels[0].plot([], [], "o", ms=4, color=c, label=t)[0] for t, c in _COLOURS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _gaps(target: Mapping[str, Any], view: str) -> dict[str, dict[str, tuple[float, list[float]]]]:
    """Row -> table -> difference and 95 % interval, over users or over items, the wider ends."""
    found: dict[str, dict[str, tuple[float, list[float]]]] = {}
    for table in _COLOURS.keys() & target["tables"].keys():
        for entry in target["tables"][table]["views"][view]["paired"]:
            if entry["kind"] == SINGLE:
                gap = entry[HEADLINE]
                bounds = [
                    min(gap["ci95"][0], gap["ci95_items"][0]),
                    max(gap["ci95"][1], gap["ci95_items"][1]),
                ]
                found.setdefault(entry["row"], {})[table] = (gap["difference"], bounds)
    return found


def _reference(target: Mapping[str, Any], view: str) -> str:
    references = {target["tables"][t]["views"][view]["references"][SINGLE] for t in _COLOURS}
    return " or ".join(sorted(references))


def _draw(
    panel: Axes, gaps: Mapping[str, Mapping[str, tuple[float, list[float]]]], rows: Sequence[str]
) -> None:
    panel.axvline(0, color=INK, lw=0.8)
    for place, row in enumerate(rows):
        for number, (table, colour) in enumerate(_COLOURS.items()):
            if table not in gaps.get(row, {}):
                continue
            gap, (low, high) = gaps[row][table]
            y = place + _SHIFT * (2 * number - 1)
            if LIMITS[0] < gap < LIMITS[1]:
                panel.plot([low, high], [y, y], color=colour, lw=1.2, solid_capstyle="round")
                panel.plot([gap], [y], "o", ms=3.6, color=colour)
            else:
                edge, marker = (LIMITS[0], "<") if gap < 0 else (LIMITS[1], ">")
                panel.plot([edge], [y], marker, ms=4, color=colour, clip_on=False)
