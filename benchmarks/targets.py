"""The targets beside the measured figures: the first table of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from . import aggregation, call, flush, footprint, growth, latency, rate, startup
from .peers import LIMIT, MESH, RECIPE, Loguru
from .rounds import Row, Section, Spread

Found = Mapping[str, Section]


class Target(NamedTuple):
    """A figure, its target, and its stretch target. `unit` follows each number."""

    figure: str
    unit: str
    target: float
    stretch: float
    measure: Callable[[Found], float | None]
    at_least: bool = False

    def reached(self, value: float, aim: float) -> bool:
        """Tell whether a value is at least as good as `aim`."""
        return value >= aim if self.at_least else value <= aim


def rows(sections: Sequence[Section]) -> Iterator[str]:
    """Yield the table's lines for the figures that were measured."""
    found = {section.name: section for section in sections}
    measured = [(target, value) for target in TARGETS if (value := target.measure(found)) is not None]
    if measured:
        yield "| figure | target | now | stretch | |\n|---|---:|---:|---:|---|"
    for target, value in measured:
        sign = "≥" if target.at_least else "≤"
        said = "missed"
        if target.reached(value, target.target):
            said = "stretch" if target.reached(value, target.stretch) else "target"
        aim, now, stretch = (
            f"{each:,.0f}{target.unit}" if each >= 100 else f"{each:.2f}{target.unit}"
            for each in (target.target, value, target.stretch)
        )
        yield f"| {target.figure} | {sign} {aim} | {now} | {sign} {stretch} | {said} |"


def _ratio(name: str, work: Callable[[Section], str], subject: str, base: str) -> Callable[[Found], float | None]:
    def measure(found: Found) -> float | None:
        ratio = found[name].ratio(work(found[name]), subject, base) if name in found else None
        return None if ratio is None else ratio.median

    return measure


def _median(name: str, work: str, subject: str) -> Callable[[Found], float | None]:
    return lambda found: _middle(found[name].find(work, subject)) if name in found else None


def _middle(row: Row | None) -> float | None:
    return None if row is None else Spread.of(row.values).median


def _printed(kinds: int) -> Callable[[Found], float | None]:
    def measure(found: Found) -> float | None:
        section = found.get("aggregation", Section("", ""))
        works = [row.work for row in section.rows if row.work.endswith(aggregation.PRINTED)]
        return _middle(section.find(works[0], aggregation.name(kinds))) if works else None

    return measure


def _of_many(found: Found) -> float | None:
    section = found.get("growth", Section("", ""))
    spent = {row.work.partition(" x ")[0]: _middle(row) for row in section.rows if row.subject == growth.CPU}
    few, many = spent.get("4 procs"), spent.get("256 procs")
    return many / few if few and many else None


def _memory(found: Found) -> float | None:
    section = found.get("growth", Section("", ""))
    last = [row for row in section.rows if row.subject == growth.MEMORY][-1:]
    middle = _middle(last[0]) if last else None
    return None if middle is None else middle * 1e3 / 1024


def _first_line(method: str) -> Callable[[Found], float | None]:
    return _ratio("startup", lambda _: f"4 procs to the first line, {method}", "spawn_procs", "ProcessPoolExecutor")


def _of_kind(kind: str) -> Callable[[Found], float | None]:
    """Return the ratio of the rates of a kind of records, or None if it was not measured."""

    def measure(found: Found) -> float | None:
        section = found.get("rate", Section("", ""))
        work = next((row.work for row in section.rows if row.work.endswith(f" {kind} records")), None)
        ratio = section.ratio(work, MESH.name, RECIPE.name) if work is not None else None
        return None if ratio is None else ratio.median

    return measure


def _first(section: Section) -> str:
    return section.rows[0].work


def _cpu(section: Section) -> str:
    return rate.cpu_of(_first(section))


_MESH, _WINDOW, _RECIPE = MESH.name, rate.WINDOW.name, RECIPE.name

TARGETS: Final = (
    Target("the call, 1 proc, against a handler that does nothing", "x", 1.6, 1.4, _ratio("call", _first, _MESH, call.NOTHING)),
    Target("the call against `StreamHandler` to the null device", "x", 1.0, 0.9, _ratio("call", _first, _MESH, call.NULL)),
    Target("4 procs, delivered a second, against the recipe", "x", 4, 5, _ratio("rate", _first, _MESH, _RECIPE), True),
    Target("the same, recipe's processor time a record over ours", "x", 4, 5, _ratio("rate", _cpu, _RECIPE, _MESH), True),
    Target("the same against loguru", "x", 6, 8, _ratio("rate", _first, _MESH, Loguru().name), True),
    Target("share of the limit", "x", 0.40, 0.55, _ratio("rate", _first, _MESH, LIMIT.name), True),
    Target("the same by processor time", "x", 0.40, 0.55, _ratio("rate", _cpu, LIMIT.name, _MESH), True),
    Target("window of 1 s, all similar, against the recipe", "x", 5, 7, _ratio("rate", _first, _WINDOW, _RECIPE), True),
    Target("the same by processor time", "x", 5, 7, _ratio("rate", _cpu, _RECIPE, _WINDOW), True),
    Target("window of 1 s, captured text, 50 different lines", " a second", 100_000, 200_000, _printed(50), True),
    Target("the same, 2,000 different lines", " a second", 50_000, 100_000, _printed(2000), True),
    Target("flush, idle mesh of 4", " ms", 2, 1, _median("flush", flush.work_of(4), flush.CLIENT)),
    Target("flush, idle mesh of 64", " ms", 20, 10, _median("flush", flush.work_of(64), flush.CLIENT)),
    Target("latency of a lone record, p50", " ms", 2, 1, _median("latency", latency.IDLE_MEDIAN, _MESH)),
    Target("client's processor time a record, 256 procs against 4", "x", 1.3, 1.1, _of_many),
    Target("client's memory per simulated rank, as many as there were", " KiB", 16, 8, _memory),
    Target("idle mesh of 16: wake-ups a second", "", 5, 0, _median("footprint", footprint.WAKEUPS, _MESH)),
    *(
        Target(f"4 procs to the first line, {method}, over ProcessPoolExecutor", "x", 1.5, 1.2, _first_line(method))
        for method in ("fork", "forkserver", "spawn")
    ),
    Target("`install`, after the import", " ms", 3, 3, _median("startup", "install, after the import", "install")),
    *(
        Target(f"4 procs, {kind}, delivered, against the recipe", "x", aim, stretch, _of_kind(kind), True)
        for kind, aim, stretch in (
            ("f-string", 4, 6),
            ("extra", 3, 5),
            ("mapping", 3, 5),
            ("objects", 2.5, 4),
            ("exception", 1.5, 3),
        )
    ),
    Target("import in a worker, over `logging.config`", " ms", 20, 10, _median("startup", "import", startup.WORKER)),
)
