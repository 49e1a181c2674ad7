"""Makes the report of a log directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from ...system.descriptors import write_all
from .events import CLIENT, Event
from .findings import Findings
from .model import PageModel
from .read_dir import LogDirectory
from .render import render


def write_report(directory: str, output: str, complain: Callable[[str], None]) -> str:
    """Write the page of a log directory to a file ("-": stdout); return a text about it. `complain` gets what is not readable.

    Raises `NoLogs` if the directory has no logs, and `OSError` if it cannot be read, or the file not be written.
    """
    source = LogDirectory(directory, complain)
    model, findings = PageModel(), Findings()

    def noted(events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            model.add(event)
            yield event

    for rank in source.ranks:
        findings.add(rank, noted(source.events(rank)))
    now = model.latest
    about = {
        "title": os.path.basename(os.path.abspath(directory)),
        "now": now,
        "live": False,
        "estimated": source.estimated,
    }
    told = model.to_dict(findings.insight(now), about)
    page = render(told).encode("utf-8", "replace")
    name = "stdout" if output == "-" else output
    try:
        if output == "-":
            write_all(1, page)
        else:
            _write(os.path.realpath(output), page)
    except OSError as failure:
        raise OSError(failure.errno, failure.strerror, name) from None
    ranks = sum(rank != CLIENT for rank in source.ranks)
    return f"{name}: {ranks:,} rank{'' if ranks == 1 else 's'}, {model.total:,} records and lines, {len(page) / 1e6:.1f} MB"


def _write(path: str, page: bytes) -> None:
    """Write a file as a whole; a write that fails leaves the file as it was. A device or a pipe gets the bytes as they are."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(page)
        return
    beside = f"{path}.part"
    try:
        with open(beside, "wb") as file:
            file.write(page)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):  # it could not be made; the first error is raised
            os.unlink(beside)
        raise
