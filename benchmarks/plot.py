"""Draws the results for the README: an SVG with a panel each for the call, the rate and grouping, where measured."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from . import aggregation, call
from .peers import LIMIT, MESH
from .rate import WINDOW
from .rounds import Section, Spread

_OURS: Final = "#1b7f5c"
_THEIRS: Final = "#9aa5b1"
_FLOOR: Final = "#d5dae0"
_INK: Final = "#24292f"


def draw(path: Path, sections: Sequence[Section]) -> str | None:
    """Draw to `path`; return the reason if drawing is not possible or there is nothing to draw."""
    pyplot = _pyplot()
    if pyplot is None:
        return _MISSING
    found = {section.name: section for section in sections}
    known: dict[str, Callable[[Any, Section], None]] = {"call": _call, "rate": _rate, "aggregation": _aggregation}
    panels = [(draw_panel, found[name]) for name, draw_panel in known.items() if name in found]
    if not panels:
        return f"none of {', '.join(known)} was measured"
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(1, len(panels), figsize=(5.4 * len(panels), 3.2), squeeze=False, layout="constrained")
        for axis, (draw_panel, section) in zip(axes[0], panels, strict=True):
            draw_panel(axis, section)
        _save(pyplot, figure, path)
    return None


def draw_ratios(path: Path, ratios: Mapping[str, float], title: str) -> str | None:
    """Draw one bar for each ratio to `path`; return the reason if drawing is not possible."""
    pyplot = _pyplot()
    if pyplot is None:
        return _MISSING
    with pyplot.rc_context(_STYLE):
        figure, axis = pyplot.subplots(figsize=(7.2, 2.2), layout="constrained")
        _bars(axis, dict(ratios), "{:.1f} x", "", _OURS)
        axis.set_title(title)
        _save(pyplot, figure, path)
    return None


_MISSING: Final = "matplotlib is not installed (pip install -e '.[bench]')"


def _pyplot() -> Any:
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        matplotlib.use("svg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return None


def _save(pyplot: Any, figure: Any, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


_STYLE: Final = {
    "svg.hashsalt": "meshlog",
    "svg.fonttype": "path",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _THEIRS,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


def _call(axis: Any, section: Section) -> None:
    work = section.rows[0].work
    ratios = {row.subject: section.ratio(work, row.subject, call.NOTHING) for row in section.rows if row.work == work}
    _bars(axis, {name: ratio.median for name, ratio in ratios.items() if ratio is not None}, "{:.1f} x", call.NOTHING)
    axis.set_title("One logging call, times a handler that does nothing")


def _rate(axis: Any, section: Section) -> None:
    work = section.rows[0].work
    rows = [row for row in section.rows if row.work == work and row.values]
    _bars(axis, {row.subject: Spread.of(row.values).median for row in rows}, "{:,.0f}", LIMIT.name)
    axis.set_title(f"{work}, arrived a second")


def _bars(axis: Any, values: dict[str, float], label: str, floor: str, other: str = _THEIRS) -> None:
    ours = (MESH.name, WINDOW.name)
    colours = [_FLOOR if name == floor else _OURS if name in ours else other for name in values]
    places = list(range(len(values)))
    bars = axis.barh(places, list(values.values()), color=colours, height=0.66)
    axis.bar_label(bars, [label.format(value) for value in values.values()], padding=4)
    axis.set_yticks(places, list(values))
    axis.invert_yaxis()
    axis.spines["left"].set_visible(False)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(left=False, bottom=False, labelbottom=False)
    axis.margins(x=0.16)


def _aggregation(axis: Any, section: Section) -> None:
    kinds = (1, 50, 200, 2000)
    dashes = {aggregation.RECORDS: "-", aggregation.PRINTED: "--", aggregation.ALONE: ":"}
    for work in dict.fromkeys(row.work for row in section.rows):
        found = [(count, section.find(work, aggregation.name(count))) for count in kinds]
        points = [(count, Spread.of(row.values).median) for count, row in found if row is not None]
        dash = next((dashes[how] for how in dashes if how in work), "-")
        axis.plot(*zip(*points, strict=True), dash, color=_OURS, marker="o", markersize=4, label=work)
    axis.set_xscale("log")
    axis.set_xticks(kinds, [f"{count:,}" for count in kinds])
    axis.minorticks_off()
    axis.set_ylim(0, axis.get_ylim()[1] * 1.3)  # the legend is above the lines
    axis.yaxis.set_major_formatter(lambda value, _: f"{value / 1e3:,.0f}k")
    axis.set_xlabel("kinds of lines in a window of 1 s")
    axis.set_title("Grouped, lines a second")
    axis.legend(frameon=False, fontsize=8, loc="upper right")
