"""Figures of the report and of the README, drawn from metrics.json and cocktail.json alone."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reccocktail.errors import RunError
from reccocktail.mixing.objectives import OBJECTIVES
from reccocktail.mixing.sheet import sums_to_one
from reccocktail.storage import atomic_file

# Names in the page's style sheet -> colours of a PNG; inline SVG takes the page's own colours,
# so one drawing suits light and dark.
INK, MUTED, LINE, ACCENT, COOL = "#1d1c1a", "#6b675f", "#d8d2c6", "#b4541a", "#2a6486"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", COOL: "cool"}


STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "font.family": ["sans-serif"],
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; draw on it under `STYLE`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element for a page, in the page's colours, the same bytes each time.

    Args:
        figure: a figure made in this module.
        name: unique within the page, so that the drawings' inner ids do not meet.
    """
    stream = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A fixed size would not shrink on a phone; the viewBox keeps the proportions.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # Ids nobody refers to would clash with those of the page's other drawings.
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(
        r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", text
    )
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure for a page that is white."""
    with rc_context(STYLE), atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200, facecolor="white")


def lambda_1(coefficients: Mapping[str, Sequence[float]]) -> float:
    """Mean coefficient of the first adapter over a cocktail's layers, modules or one pair."""
    return float(np.mean([pair[0] for pair in coefficients.values()]))


def curve_figure(cocktail: Mapping[str, Any], metric: str = "ndcg@10") -> Figure:
    """Entropy (above) and validation quality (below) against lambda_1, the chosen point marked.

    Entropies are drawn as nats above each curve's own minimum, so that the plain and the
    calibrated one share an axis, and with them whatever else was minimised; the minima stand in
    the legend. Diluted mixes are not drawn, nor is a cocktail marked that does not lie on the line.

    Args:
        cocktail: content of a cocktail.json with two adapters and a curve.
        metric: which validation metric to draw.

    Raises:
        RunError: the cocktail has no curve over two adapters.
    """
    curve = [point for point in cocktail.get("curve") or [] if sums_to_one(point["coefficients"])]
    points = sorted(curve, key=lambda point: float(point["coefficients"][0]))
    if len(points) < 2 or len(points[0]["coefficients"]) != 2:
        raise RunError(f"Cocktail {cocktail.get('name')!r} has no curve over two adapters to draw.")
    x = np.array([point["coefficients"][0] for point in points], dtype=np.float64)
    with rc_context(STYLE):
        figure = new_figure(4.3, 3.5)
        upper, lower = figure.subplots(2, 1, sharex=True)
        title = "Entropy of the mix"
        drawn: dict[str, tuple[str, str, Any, int]] = {
            "entropy": ("plain", MUTED, (0, (4, 2)), 1),
            "calibrated_entropy": ("calibrated", COOL, "-", 1),
        }
        for objective, rule in OBJECTIVES.items():
            if objective == cocktail.get("objective") and rule.curve_key not in drawn:
                drawn[rule.curve_key] = (objective, INK, ":", rule.sign)
                title += f" and {objective}"
        for key, (label, colour, style, sign) in drawn.items():
            if any(point.get(key) is None for point in points):
                continue
            y = sign * np.array([point[key] for point in points], dtype=np.float64)
            label = f"{label}: lowest {y.min():.3f} at {x[y.argmin()]:.2f}"
            upper.plot(x, y - y.min(), "o", ls=style, ms=3, lw=1.3, color=colour, label=label)
        upper.set_title(f"{title}, nats above each curve's lowest point")
        # Below the axes, where it can hide no curve.
        upper.legend(
            fontsize=7,
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.06),
            ncols=2,
            labelcolor=INK,
            columnspacing=1.4,
        )
        measured = [point for point in points if point.get("validation")]
        if measured:
            xs = [point["coefficients"][0] for point in measured]
            ys = [point["validation"][metric] for point in measured]
            lower.plot(xs, ys, "o-", ms=3, lw=1.3, color=ACCENT)
            n = measured[0]["validation"].get("n")
            count = f", n = {n:,}" if n is not None else ""
            lower.set_title(f"Validation {metric.upper()}{count}")
        else:
            lower.set_title("Validation: not measured for this cocktail")
        name, base = (_role(cocktail, i) for i in (1, 0))
        lower.set_xlabel(f"λ₁   (0 = {name} alone, 1 = {base} alone)")
        _mark_choice((upper, lower), cocktail)
    return figure


def _role(cocktail: Mapping[str, Any], place: int) -> str:
    adapters = cocktail.get("adapters") or []
    fallback = ("first adapter", "second adapter")[place]
    return str(adapters[place].get("name", fallback)) if place < len(adapters) else fallback


def _mark_choice(axes: Sequence[Axes], cocktail: Mapping[str, Any]) -> None:
    """A line at the chosen lambda_1 through all axes, named once, if there is such a place."""
    coefficients = cocktail.get("coefficients") or {}
    for axis in axes:
        axis.grid(True, axis="y")
        axis.set_axisbelow(True)
        axis.margins(y=0.15)
    if not coefficients or not all(map(sums_to_one, coefficients.values())):
        return  # the cocktail lies elsewhere
    chosen = lambda_1(coefficients)
    for axis in axes:
        axis.axvline(chosen, color=ACCENT, lw=1, ls=":")
    what = "chosen" if list(coefficients) == ["all"] else "chosen, mean"
    right = chosen > 0.7
    axes[1].annotate(
        f"{what} λ₁ = {chosen:.3f}",
        (chosen, 0.04),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if right else 4, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        fontsize=7.5,
        color=ACCENT,
    )


def models_figure(
    metrics: Mapping[str, Any],
    scenarios: Sequence[str],
    metric: str = "ndcg@3",
    emphasis: Sequence[str] = (),
) -> Figure:
    """One dot a model with its 95% interval, one panel a scenario.

    Args:
        metrics: content of a metrics.json.
        scenarios: the panels, from top to bottom.
        metric: drawn on the x axis; all panels share it.
        emphasis: models drawn in the accent colour (the cocktails).
    """
    names = {
        scenario: [name for name, cells in metrics["models"].items() if scenario in cells]
        for scenario in scenarios
    }
    rows = [len(names[scenario]) + 1.2 for scenario in scenarios]
    with rc_context(STYLE):
        figure = new_figure(4.3, 0.19 * sum(rows) + 0.45)
        panels = figure.subplots(len(scenarios), 1, sharex=True, squeeze=False, height_ratios=rows)[
            :, 0
        ]
        for panel, scenario in zip(panels, scenarios, strict=True):
            for y, name in enumerate(names[scenario]):
                cell = metrics["models"][name][scenario]
                low, high = cell["ci95"][metric]
                colour = ACCENT if name in emphasis else INK
                panel.plot([low, high], [y, y], color=colour, lw=1.4, solid_capstyle="round")
                panel.plot([cell[metric]], [y], "o", ms=4.5, color=colour)
            counts = sorted({metrics["models"][name][scenario]["n"] for name in names[scenario]})
            span = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
            panel.set_title(f"{scenario.capitalize()}, n = {span}")
            panel.set_yticks(range(len(names[scenario])), [_short(n) for n in names[scenario]])
            panel.tick_params(axis="y", length=0, labelcolor=INK)
            panel.set_ylim(len(names[scenario]) - 0.4, -0.6)
            panel.grid(True, axis="x")
            panel.set_axisbelow(True)
            panel.spines["left"].set_visible(False)
        panels[-1].set_xlabel(f"{metric.upper()} with 95% bootstrap interval")
    return figure


def plot_models(
    metrics: Mapping[str, Any],
    scenarios: Sequence[str],
    path: Path,
    metric: str = "ndcg@3",
    emphasis: Sequence[str] = (),
) -> Path:
    """Write `models_figure` as a PNG.

    Raises:
        RunError: the file cannot be written.
    """
    save_png(models_figure(metrics, scenarios, metric, emphasis), path)
    return path


def coefficients_figure(cocktail: Mapping[str, Any]) -> Figure | None:
    """The first adapter's coefficient in every layer or module; None where one pair serves all."""
    coefficients = cocktail.get("coefficients") or {}
    if len(coefficients) < 2:
        return None
    values = [pair[0] for pair in coefficients.values()]
    with rc_context(STYLE):
        figure = new_figure(4.3, 1.7)
        axis = figure.subplots()
        axis.plot(range(len(values)), values, "o", ms=2.8, color=ACCENT)
        axis.axhline(float(np.mean(values)), color=MUTED, lw=0.8, ls=":")
        axis.set_ylim(-0.04, 1.04)
        axis.set_title(f"λ₁ in each {cocktail.get('granularity', 'place')}, dotted: mean")
        axis.set_xlabel(f"{cocktail.get('granularity', 'place')}, first to last")
        axis.grid(True, axis="y")
    return figure


def _short(name: str, length: int = 26) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
