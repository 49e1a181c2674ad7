"""The stacks of many ranks, merged: equal stacks are one group, with its ranks. Pure.

::

    rank, encoded threads  -> decode_found -> merge -> groups -> to_dict(), str(): a call-prefix tree
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ..errors import ProtocolError
from ..protocol.codec import pack, unpack
from ..protocol.ranks import format_ranks
from .call_tree import (
    BOOTSTRAP,
    LIBRARY,
    MAX_FUNCTION,
    Frame,
    StackGroup,
    Unanswered,
    clean,
    start_of,
    unanswered_texts,
    ways_of,
    without_imports,
)

MAIN_THREAD: Final = "MainThread"
_MAX_NAMES: Final = 3
_INDENT: Final = "  "
# Patterns are compiled at their first use: most clients never ask for stacks.
_DUMPED_FRAME: Final = r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$'
_DUMPED_THREAD: Final = r"^(?:Current thread|Thread) 0x([0-9a-f]+)(?: \[(.*)\])? \(most recent call first\):$"
_OWN_THREAD: Final = r"/meshlog_handler/(?:worker/(?:runtime|forwarder)|client/(?:log_client|relay/uplink))\.py$"


class ThreadStack(NamedTuple):
    """The stack of one thread, outermost call first, and the source lines of its frames ("" if unknown)."""

    thread: str
    frames: tuple[Frame, ...]
    sources: tuple[str, ...]


class Stacks:
    """The stacks of all threads of many ranks. `str` of it is a tree for reading, `to_dict` is plain data.

    Attributes
    ----------
    ranks : tuple of int
        The ranks whose stacks are here.
    groups : tuple of StackGroup
        Equal stacks, those of the most ranks first.
    unanswered : dict of int to Unanswered
        The ranks without stacks, with the state that the kernel reports.
    """

    def __init__(self, ranks: tuple[int, ...], groups: tuple[StackGroup, ...], unanswered: dict[int, Unanswered]) -> None:
        self.ranks = ranks
        self.groups = groups
        self.unanswered = unanswered

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Stacks) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it holds a dict

    def __repr__(self) -> str:
        return f"<Stacks of {len(self.ranks)} ranks: {len(self.groups)} groups, {len(self.unanswered)} unanswered>"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON."""
        return {
            "ranks": list(self.ranks),
            "groups": [
                {
                    "ranks": list(group.ranks),
                    "threads": list(group.threads),
                    "thread_count": group.thread_count,
                    "odd": group.odd,
                    "frames": [
                        {**frame._asdict(), "source": source} for frame, source in zip(group.frames, group.sources, strict=True)
                    ],
                }
                for group in self.groups
            ],
            "unanswered": {str(rank): each._asdict() for rank, each in self.unanswered.items()},
        }

    def __str__(self) -> str:
        return "\n".join(_text(self))

    def _repr_html_(self) -> str:
        """Return a tree for a notebook."""
        from .html import stacks_html

        return stacks_html(self)


# -- from a rank -------------------------------------------------------------------------------------------------------


def encode_unanswered(unanswered: Unanswered) -> bytes:
    """Return what is known of a rank without stacks as bytes, for `decode_found`."""
    return pack(("unanswered", *unanswered))


def encode_threads(threads: Iterable[ThreadStack]) -> bytes:
    """Return the stacks of threads as a worker sends them."""
    return pack(
        tuple(
            (each.thread, tuple((*frame, source) for frame, source in zip(each.frames, each.sources, strict=True)))
            for each in threads
        )
    )


def decode_found(found: bytes) -> tuple[ThreadStack, ...] | Unanswered:
    """Return what a worker or relay sent for one rank. Malformed data is an `Unanswered` that says so."""
    try:
        value = unpack(found)
        if not isinstance(value, tuple):
            raise ProtocolError("expected a tuple")
        if value[:1] == ("unanswered",):
            pid, *texts = value[1:]
            if not isinstance(pid, (int, type(None))) or list(map(type, texts)) != [str] * 3:
                raise ProtocolError("expected a pid and three texts")
            return Unanswered(pid, *texts)
        return tuple(map(_thread, value))
    except (ProtocolError, TypeError, ValueError) as failure:
        return Unanswered(None, "", "", f"it sent stacks that cannot be read: {failure}")


def _thread(value: Any) -> ThreadStack:
    name, calls = value
    frames = tuple(Frame(file, line, function) for file, line, function, _ in calls)
    sources = tuple(source for _, _, _, source in calls)
    kinds = [(str, int, str)] * len(frames)
    if type(name) is not str or [tuple(map(type, frame)) for frame in frames] != kinds or {*map(type, sources)} - {str}:
        raise ProtocolError("expected a name, and file, line, function and source of each frame")
    return ThreadStack(name, frames, sources)


def parse_dump(text: str, main: int) -> tuple[ThreadStack, ...]:
    """Return the threads in a dump of `faulthandler`, without those of this package.

    `main` is the identifier of the main thread. Only Python 3.14 and later tell the names of the others.
    """
    stacks: list[ThreadStack] = []
    name, frames = "", list[Frame]()

    def end() -> None:
        if frames and not _is_own(frames):
            stacks.append(ThreadStack(name, tuple(reversed(frames)), ("",) * len(frames)))

    for line in text.splitlines():
        if begun := re.match(_DUMPED_THREAD, line):
            end()
            ident = int(begun[1], 16)
            name, frames = MAIN_THREAD if ident == main else begun[2] or "", []
        elif found := re.match(_DUMPED_FRAME, line):
            frames.append(Frame(found[1], int(found[2]) if found[2].isdecimal() else 0, found[3]))
        elif line == "  ...":
            frames.append(Frame("", 0, "outer frames are left out"))
    end()
    return tuple(stacks)


def _is_own(frames: list[Frame]) -> bool:
    """Whether a dumped stack, innermost call first, is of a thread of this package."""
    calls = [frame for frame in frames[-4:] if frame.function not in BOOTSTRAP]
    return frames[-1].function == "_bootstrap" and bool(calls) and re.search(_OWN_THREAD, calls[-1].file) is not None


# -- merging -----------------------------------------------------------------------------------------------------------


def merge(found: Iterable[tuple[int, tuple[ThreadStack, ...] | Unanswered]]) -> Stacks:
    """Merge what is known of ranks. The order has no influence. Several processes of one rank count as that rank."""
    members: defaultdict[tuple[Frame, ...], list[tuple[int, str]]] = defaultdict(list)
    sources: defaultdict[Frame, set[str]] = defaultdict(set)
    answered: set[int] = set()
    unanswered: defaultdict[int, list[Unanswered]] = defaultdict(list)
    for rank, threads in found:
        if isinstance(threads, Unanswered):
            unanswered[rank].append(threads)
            continue
        answered.add(rank)
        for thread in threads:
            members[thread.frames].append((rank, thread.thread))
            for frame, source in zip(thread.frames, thread.sources, strict=True):
                sources[frame].add(source)
    odd = _odd_stacks(members, len(answered))
    groups = [
        StackGroup(
            ranks=tuple(sorted({rank for rank, _ in each})),
            threads=tuple(sorted({name for _, name in each}, key=_name_order)),
            thread_count=len(each),
            frames=frames,
            sources=tuple(max(sources[frame], default="") for frame in frames),
            odd=frames in odd,
        )
        for frames, each in members.items()
    ]
    groups.sort(key=_group_order)
    silent = {rank: min(each, key=_unanswered_order) for rank, each in sorted(unanswered.items())}
    return Stacks(tuple(sorted(answered)), tuple(groups), silent)


def _odd_stacks(members: Mapping[tuple[Frame, ...], list[tuple[int, str]]], total: int) -> set[tuple[Frame, ...]]:
    """Return the stacks of few ranks, where most ranks are elsewhere with a thread of this name, or do not have it."""
    places: defaultdict[str, dict[tuple[Frame, ...], set[int]]] = defaultdict(dict)
    for frames, each in members.items():
        for rank, name in each:
            places[_kind(name)].setdefault(frames, set()).add(rank)
    few, odd = max(1, total // 4), set()
    if total > 2:
        for stacks in places.values():
            most = max(map(len, stacks.values()))
            for frames, ranks in stacks.items():
                present = len(set().union(*stacks.values()))
                if len(ranks) <= few and (2 * most > present > few or present <= few):
                    odd.add(frames)
    return {frames for frames in odd if len({rank for rank, _ in members[frames]}) <= few}


def _kind(name: str) -> str:
    """Return the name of a thread without its numbers: they differ between ranks."""
    return re.sub(r"\d+", "#", name)


def _name_order(name: str) -> tuple[bool, str]:
    return name != MAIN_THREAD, name


def _group_order(group: StackGroup) -> tuple[object, ...]:
    return -len(group.ranks), -group.thread_count, _name_order(group.threads[0]), group.ranks, group.frames


def _unanswered_order(each: Unanswered) -> tuple[object, ...]:
    return each.pid is None, each.pid or 0, each.state, each.wait_channel, each.reason


# -- text --------------------------------------------------------------------------------------------------------------


def _text(stacks: Stacks) -> Iterable[str]:
    """Yield a line on who answered, the call-prefix tree of each kind of thread, and the ranks without stacks."""
    threads = sum(group.thread_count for group in stacks.groups)
    silent = f"; {format_ranks(stacks.unanswered)} without stacks" if stacks.unanswered else ""
    yield f"{_counted(threads, 'thread')} of {_counted(len(stacks.ranks), 'rank')}{silent}"
    kinds: defaultdict[tuple[str, ...], list[StackGroup]] = defaultdict(list)
    for group in stacks.groups:
        kinds[tuple(sorted({_kind(name) for name in group.threads}, key=_name_order))].append(without_imports(group))
    # Few kinds are a part of others: a stack of two kinds of threads has a tree for both.
    for _, groups in sorted(kinds.items(), key=lambda each: (each[0][0] != MAIN_THREAD, _group_order(each[1][0]))):
        yield ""
        yield from _tree(groups, 0, "", None)
    if stacks.unanswered:
        yield ""
        yield "without stacks:"
        yield from (f"{_INDENT}{text}" for text in unanswered_texts(stacks.unanswered))


def _tree(groups: list[StackGroup], depth: int, indent: str, before: frozenset[int] | None) -> Iterable[str]:
    """Yield the frames that these groups share, then the subtree of each way in which they go on."""
    ranks = frozenset().union(*(group.ranks for group in groups))
    ways = ways_of(groups, depth)
    if before is None and len(ways) > 1:  # they share no frame
        for way in ways:
            yield from _tree(way, depth, indent, None)
        return
    names = sorted({name for group in groups for name in group.threads}, key=_name_order)
    count = sum(group.thread_count for group in groups)
    several = f", {count} threads" if count > len(ranks) else ""
    odd = "  <-- differs from most ranks" if all(group.odd for group in groups) else ""
    yield f"{indent}{format_ranks(ranks)}{several}: {_names(names)}{odd}"
    if before is None and (start := start_of(groups)):
        yield f"{indent}{_INDENT}... {_counted(start, 'frame')} of the start"
        depth = start
        ways = ways_of(groups, depth)
    while len(ways) == 1 and depth < len(groups[0].frames):
        yield f"{indent}{_INDENT}{_call(groups[0], depth)}"
        depth += 1
        ways = ways_of(groups, depth)
    if len(ways) > 1:
        for way in ways:
            yield from _tree(way, depth, indent + _INDENT, ranks)


def _call(group: StackGroup, depth: int) -> str:
    frame, source = group.frames[depth], group.sources[depth]
    if not frame.file:
        return f"... {clean(frame.function)}"
    place = f"{re.sub(LIBRARY, '', frame.file)}:{frame.line}"
    return clean(f"{frame.function[:MAX_FUNCTION]} ({place}){f'  {source}' if source else ''}")


def _names(names: list[str]) -> str:
    shown = [clean(name) or "a thread without a name" for name in names[:_MAX_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
