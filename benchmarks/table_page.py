"""What `paper_table.py` writes: one JSON, its Markdown and HTML pages, and a picture a target."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from provenance import write_result
from reccocktail.evaluation.plots import models_figure, plot_models, svg
from reccocktail.evaluation.report import page_environment
from reccocktail.storage import atomic_file
from table_report import (
    HEADLINE,
    PAPER_FILE,
    SHOWN,
    TITLES,
    cells_of,
    costs_table,
    markdown_table,
    note,
    paper_figures,
    tables_of,
)
from table_rows import ROWS
from table_target import COLD_ONLY, VIEWS, WORDS

TEMPLATE = Path(__file__).with_name("paper_table.html.j2")
PRIOR = "with prior"
SAYS = {
    PRIOR: "Ranked with the popularity prior, whose weight validation users choose (the "
    "project's default).",
    WORDS: "Ranked with popularity and with the words that titles share (`recommend` adds who "
    "chose what), whose weights validation users choose.",
    "text alone": "Ranked by text alone.",
}
_MIXED = ("cocktail", "cocktail_calibrated", "cocktail_factor", "cocktail_layer", "validation")


def views_of(table: str) -> list[str]:
    """The views that a table shows: cold items have no prior, so two are the same there."""
    alone = [] if table == COLD_ONLY else [v for v in VIEWS if v not in (PRIOR, WORDS)]
    return [PRIOR, *alone, WORDS]


def write_all(out: Path, result: dict[str, Any]) -> None:
    """Write paper_table.json, .md, .html, and paper_table_<target>.png."""
    write_result(out / "paper_table.json", result)
    with atomic_file(out / "paper_table.md") as temporary:
        temporary.write_text(markdown(result), encoding="utf-8")
    with atomic_file(out / "paper_table.html") as temporary:
        temporary.write_text(page(result), encoding="utf-8")
    for name, target in result["targets"].items():
        path = out / f"paper_table_{name}.png"
        plot_models(_plotted(target), tables_of(target), path, HEADLINE, _MIXED)


def markdown(result: Mapping[str, Any]) -> str:
    """What each row is; all tables with their notes; what each row cost."""
    says = "\n".join(f"- `{row.name}`: {row.says}." for row in ROWS)
    blocks = ["# The paper's tables, with the controls", f"## Rows\n\n{says}"]
    for name, target in result["targets"].items():
        blocks.append(f"## {name}")
        for table in tables_of(target):
            found = target["tables"][table]
            for view in views_of(table):
                blocks.append(f"### {heading(table, view)}\n\n{SAYS[view]}")
                blocks.append(markdown_table(name, table, found["views"][view]))
                blocks.append(note(found, found["views"][view], name, table))
        if remark := cold_remark(target):
            blocks.append(remark)
        blocks.append(f"### Costs\n\n{costs_table(target['tables'])}")
        blocks += [f"Left out: {row}, because {why}" for row, why in target["skipped"].items()]
    return "\n\n".join(blocks) + "\n"


def heading(table: str, view: str) -> str:
    """What a table is called: whom it has, and what counts."""
    return f"{TITLES[table].capitalize()}: {view.replace('prior', 'popularity')}"


def cold_remark(target: Mapping[str, Any]) -> str | None:
    """How the cold-only candidates were drawn, where there are any."""
    if COLD_ONLY not in target["tables"]:
        return None
    found = target["cold_only"]
    text = f"Cold negatives: {found['negatives']} of {found['cold_items']:,} cold items a user."
    if found["negatives"] < found["asked"]:
        text += f" {found['asked']} were asked for; some user has no more left."
    if found["interactions"] is None:
        text += (
            " Drawn without the raw interactions: a few may be items that the user chose too, "
            "which counts against every row alike."
        )
    return text


def page(result: Mapping[str, Any]) -> str:
    """The same as one self-contained HTML page."""
    targets = []
    for number, (name, target) in enumerate(result["targets"].items()):
        tables = []
        for table in tables_of(target):
            found = target["tables"][table]
            paper = paper_figures(name, table)
            for view in views_of(table):
                kept = found["views"][view]
                tables.append(
                    {
                        "caption": heading(table, view),
                        "says": SAYS[view],
                        "metrics": [metric.upper() for metric in SHOWN],
                        "paper": bool(paper),
                        "lines": cells_of(kept, paper[1] if paper else {}),
                        "note": note(found, kept, name, table),
                    }
                )
        # Matplotlib escapes names in the SVG it writes, so this text is markup and safe.
        figure = models_figure(_plotted(target), tables_of(target), HEADLINE, _MIXED)
        targets.append(
            {
                "name": name,
                "tables": tables,
                "picture": Markup(svg(figure, f"models-{number}")),
                "costs": costs_rows(target),
                "remark": cold_remark(target),
                "skipped": target["skipped"],
            }
        )
    template = page_environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        targets=targets,
        rows=[{"name": row.name, "says": row.says} for row in ROWS],
        mixed=_MIXED,
        result=result,
        paper_file=PAPER_FILE.name,
    )


def costs_rows(target: Mapping[str, Any]) -> list[list[str]]:
    """The cells of the table of costs, its head first."""
    lines = costs_table(target["tables"]).replace("\\_", "_").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if "--" not in line
    ]


def _plotted(target: Mapping[str, Any]) -> dict[str, Any]:
    """Means with intervals in the form of a metrics.json."""
    models: dict[str, Any] = {}
    for row in ROWS:
        for table in tables_of(target):
            rows = target["tables"][table]["views"][PRIOR]["rows"]
            if row.name in rows:
                label = row.name if row.kind != "oracle" else f"{row.name} (test labels)"
                models.setdefault(label, {})[table] = rows[row.name]
    return {"models": models}
