"""An insight and stacks as HTML for notebooks. What was logged is escaped, and there are no scripts. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from ..errors import printable
from ..protocol.ranks import format_ranks
from .call_tree import Frame, StackGroup, Unanswered, start_of, unanswered_texts, without_imports
from .parts import TROUBLES, FailureGroup, Progress, RankInsight, text_beside_rank, trouble_of
from .series import finest

_MAX_ROWS: Final = 50
_MAX_GROUPS: Final = 100
_MAX_FAILURES: Final = 5
_MAX_LINE: Final = 160
_MAX_NAMES: Final = 3
_RED: Final = "#cf3a34"
_AMBER: Final = "#b87700"
_COLOURS: Final = {
    "dead": _RED,
    "unreachable": _RED,
    "stopped": "#8457c9",
    "errors": _RED,
    "silent": _AMBER,
    "behind": _AMBER,
    "": "",
}
_HEAD: Final = ("rank", "state", "last seen", "lines", "warnings", "errors", "progress", "last line")
_RIGHT: Final = frozenset(("rank", "lines", "warnings", "errors"))
_MONO: Final = "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px"
_CELL: Final = "padding:1px 10px 1px 0;vertical-align:top;white-space:pre"


class _Insight(Protocol):
    """The part of an `Insight` that its table shows."""

    @property
    def ranks(self) -> Mapping[int, RankInsight]:
        """By rank."""

    @property
    def progress(self) -> Sequence[Progress]:
        """One for each kind of line whose number grows."""

    @property
    def failures(self) -> Sequence[FailureGroup]:
        """The first in time first."""


class _Stacks(Protocol):
    """`Stacks`."""

    ranks: tuple[int, ...]
    groups: tuple[StackGroup, ...]
    unanswered: dict[int, Unanswered]


def text_html(text: str) -> str:
    """Return a text as HTML."""
    return f"<pre>{_safe(text, 10 * _MAX_LINE)}</pre>"


def insight_html(insight: _Insight, title: str = "") -> str:
    """Return the failures, and a table of the ranks, those with trouble first."""
    behind = {rank for each in insight.progress for rank in each.behind}
    troubles = {rank: trouble_of(each, rank in behind) for rank, each in insight.ranks.items()}
    ranks = sorted(insight.ranks, key=lambda rank: (TROUBLES.index(troubles[rank]), rank))
    parts = [f"<div>{_safe(title)}</div>"] if title else []
    for at, failure in enumerate(insight.failures[:_MAX_FAILURES]):
        where = f"{'first failure' if not at else 'then'}: {format_ranks(failure.ranks)}: "
        parts.append(f'<div style="color:{_RED}">{_safe(where)}<b>{_safe(text_beside_rank(failure))}</b></div>')
    rows = [_row(rank, insight.ranks[rank], troubles[rank]) for rank in ranks[:_MAX_ROWS]]
    head = "".join(f'<th style="text-align:{_side(name)};{_CELL};font-weight:600">{name}</th>' for name in _HEAD)
    parts.append(
        f'<table style="border-collapse:collapse;{_MONO}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    if len(ranks) > _MAX_ROWS:
        parts.append(f"<div>and {len(ranks) - _MAX_ROWS:,} more ranks</div>")
    elif not ranks:
        parts.append("<div>nothing was received yet</div>")
    return f"<div>{''.join(parts)}</div>"


def _row(rank: int, each: RankInsight, trouble: str) -> str:
    state = "behind" if trouble == "behind" and each.state == "running" else each.state
    progress = "  ".join(f"{label} {value:g}" for label, value in finest(each.progress).items())
    seen = f"{each.last_seen:.0f} s" if each.last_seen >= 1 else "now"
    warnings, errors = (str(count or "") for count in (each.warnings, each.errors))
    cells = (str(rank), state, seen, f"{each.records + each.lines:,}", warnings, errors, progress, each.last_line)
    colour = f"color:{_COLOURS[trouble]}" if trouble else ""
    made = "".join(
        f'<td style="text-align:{_side(name)};{_CELL}">{_safe(cell)}</td>' for name, cell in zip(_HEAD, cells, strict=True)
    )
    return f'<tr style="{colour}">{made}</tr>'


def _side(name: str) -> str:
    return "right" if name in _RIGHT else "left"


def _safe(text: str, limit: int = _MAX_LINE) -> str:
    """Return the beginning of a text as HTML, with escaped control characters."""
    line = text if len(text) <= limit else f"{text[:limit]}..."
    return html.escape("\n".join(printable(each, len(each)) for each in line.split("\n")))


# -- stacks ------------------------------------------------------------------------------------------------------------


def stacks_html(stacks: _Stacks) -> str:
    """Return a tree of calls: branches are where ranks differ, and can be folded."""
    kinds: dict[tuple[str, ...], list[StackGroup]] = {}
    for group in stacks.groups[:_MAX_GROUPS]:
        kinds.setdefault(group.threads, []).append(without_imports(group))
    threads = sum(group.thread_count for group in stacks.groups)
    parts = [f"<div>{threads:,} threads of {format_ranks(stacks.ranks) if stacks.ranks else 'no ranks'}</div>"]
    parts += [_branch(groups, 0, is_open=at == 0) for at, groups in enumerate(kinds.values())]
    if len(stacks.groups) > _MAX_GROUPS:
        parts.append(f"<div>and {len(stacks.groups) - _MAX_GROUPS} more</div>")
    for text in unanswered_texts(stacks.unanswered)[:_MAX_GROUPS]:
        parts.append(f'<div style="color:{_AMBER}">without stacks: {_safe(text)}</div>')
    return f'<div style="{_MONO}">{"".join(parts)}</div>'


def _branch(groups: Sequence[StackGroup], depth: int, *, is_open: bool) -> str:
    """Return the frames that these groups share, and the branches below."""
    first = groups[0].frames
    end = depth
    while all(len(group.frames) > end and group.frames[end] == first[end] for group in groups):
        end += 1
    ranks: set[int] = set().union(*(group.ranks for group in groups))
    names = sorted({name or "a thread without a name" for group in groups for name in group.threads})
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    odd = all(group.odd for group in groups)
    last = f", in {_function(first[end - 1])}" if end > depth else ""
    colour = f"color:{_AMBER}" if odd else ""
    title = f"{format_ranks(ranks)}: {', '.join(names[:_MAX_NAMES])}{more}{last}{', differs from most ranks' if odd else ''}"
    calls = list(_calls(first[depth:end], groups[0].sources[depth:end]))
    if depth == 0 and (start := start_of(groups)):
        summary = f'<summary style="cursor:pointer">{start} {"frame" if start == 1 else "frames"} of the start</summary>'
        calls[:start] = [f'<details style="margin-left:1em">{summary}{"".join(calls[:start])}</details>']
    ways: dict[object, list[StackGroup]] = {}
    if len(groups) > 1:
        for group in groups:
            ways.setdefault(group.frames[end] if len(group.frames) > end else None, []).append(group)
    below = "".join(_branch(way, end, is_open=True) for way in ways.values())
    return (
        f'<details{" open" if is_open or odd else ""} style="margin-left:1em"><summary style="cursor:pointer;{colour}">'
        f"{_safe(title)}</summary>{''.join(calls)}{below}</details>"
    )


def _calls(frames: Iterable[Frame], sources: Iterable[str]) -> Iterable[str]:
    for frame, source in zip(frames, sources, strict=True):
        place = f"{_function(frame)}  {frame.file}:{frame.line}" if frame.file else frame.function
        code = f'<div style="margin-left:2em;opacity:.65">{_safe(source)}</div>' if source else ""
        yield f'<div style="margin-left:1em;white-space:pre-wrap">{_safe(place)}{code}</div>'


def _function(frame: Frame) -> str:
    return f"{frame.function}()" if frame.file else frame.function
