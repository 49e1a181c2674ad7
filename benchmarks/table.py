"""Writes the results: a table to read, the raw values for programs, and headline sentences."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from . import aggregation, call, flush, rate, targets
from .peers import LIMIT, MESH, RECIPE, others, version
from .rounds import Row, Scale, Section, Spread

_PACKAGES = ("loguru", "multiprocessing-logging")


def environment(scale: Scale) -> dict[str, str]:
    """Return the facts about the machine and the software that the numbers depend on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": str(os.cpu_count()),
        "load when it began": f"{os.getloadavg()[0]:.1f}",
        "rounds": f"{scale.rounds}{', quick' if scale.quick else ''}",
        **{package: version(package) or "missing" for package in _PACKAGES},
    }


def write(directory: Path, about: dict[str, str], sections: Sequence[Section]) -> None:
    """Write ``results.md`` and ``results.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text(markdown(about, sections))
    document = {"environment": about, "headlines": list(headlines(sections)), "sections": [asdict(each) for each in sections]}
    (directory / "results.json").write_text(json.dumps(document, indent=1) + "\n")


def markdown(about: dict[str, str], sections: Sequence[Section]) -> str:
    """Return the results as Markdown."""
    parts = ["# Benchmarks\n", ", ".join(f"{name} {value}" for name, value in about.items()) + ".\n"]
    parts += [
        "Median, and in brackets the least and the greatest of all rounds. A ratio is the median of the rounds' own "
        f"ratios. Made by `python -m benchmarks {' '.join(section.name for section in sections)}`.\n"
    ]
    said = list(headlines(sections))
    if said:
        parts.append("\n".join(f"- {line}" for line in said) + "\n")
    aims = list(targets.rows(sections))
    if aims:
        parts.append("## targets\n\n" + "\n".join(aims) + "\n")
    for section in sections:
        parts.append(f"## {section.name}\n\n{section.about}\n")
        parts.append("| work | subject | median | least..greatest | | compared | remark |\n|---|---|---:|---:|---|---|---|")
        before = ""
        for row in section.rows:
            parts.append(_line(section, row, row.work if row.work != before else ""))
            before = row.work
        parts.append(f"\n{section.seconds:.0f} s\n")
    return "\n".join(parts)


def _line(section: Section, row: Row, work: str) -> str:
    if not row.values:
        return f"| {work} | {row.subject} | | | | | {row.remark} |"
    spread = Spread.of(row.values)
    compared = []
    for base in row.bases:
        ratio = section.ratio(row.work, row.subject, base)
        if ratio is not None:
            compared.append(f"{ratio.median:.2f} times {base} ({ratio.low:.2f}..{ratio.high:.2f})")
    return (
        f"| {work} | {row.subject} | {number(spread.median)} | {number(spread.low)}..{number(spread.high)} | {row.unit} "
        f"| {'; '.join(compared)} | {row.remark} |"
    )


def number(value: float) -> str:
    """Return a number in readable form, with three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def headlines(sections: Sequence[Section]) -> Iterator[str]:
    """Yield one sentence for each headline result of the measured sections."""
    found = {section.name: section for section in sections}
    if "call" in found:
        for work in dict.fromkeys(row.work for row in found["call"].rows):
            ratio = found["call"].ratio(work, MESH.name, call.NOTHING)
            if ratio is not None:
                yield f"The call costs {ratio.median:.2f} times a handler that does nothing ({work})."
    if "rate" in found:
        yield from _of_rate(found["rate"])
    if "aggregation" in found:
        yield from _of_aggregation(found["aggregation"])
    if "flush" in found:
        row = found["flush"].find(flush.work_of(4), flush.CLIENT)
        if row is not None:
            yield f"A flush on an idle mesh of 4 takes {number(Spread.of(row.values).median)} ms."


def _of_rate(section: Section) -> Iterator[str]:
    work = section.rows[0].work
    there, absent = others()
    for peer in (RECIPE, *there):
        ratio = section.ratio(work, MESH.name, peer.name)
        if ratio is not None:
            yield f"{work} arrive {ratio.median:.1f} times as fast as with {peer.name}."
    yield from (f"{work}: {name} is {why}." for name, why in absent.items())
    for subject in (MESH.name, rate.WINDOW.name):
        share = section.ratio(work, subject, LIMIT.name)
        if share is not None:
            yield f"{work}: {subject} reaches {share.median:.0%} of the rate at which the same procs log into nothing."


def _of_aggregation(section: Section) -> Iterator[str]:
    for work in dict.fromkeys(row.work for row in section.rows):
        parts = []
        for kinds in (50, 200):
            row = section.find(work, aggregation.name(kinds))
            if row is not None:
                parts.append(f"{number(Spread.of(row.values).median)} lines/s of {kinds} kinds")
        if parts:
            yield f"Grouping, {work}: {', '.join(parts)}."


def show(sections: Sequence[Section]) -> None:
    """Print the sentences, and the table of targets."""
    sys.stdout.write("".join(f"{line}\n" for line in (*headlines(sections), *targets.rows(sections))))
