"""Calls of merged stacks: which of them a text leaves out, where they branch, and how a text names them. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ..protocol.ranks import format_ranks

LIBRARY: Final = r"^.*/(?:site-packages|dist-packages|lib/python[\d.]+t?)/"
_IMPORTING: Final = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
_STARTING: Final = (
    r"^<frozen runpy>$|/runpy\.py$"
    r"|/(?:multiprocess(?:ing)?|billiard)/(?:process|context|spawn|forkserver|popen_\w+)\.py$"
    r"|/meshlog_handler/mesh/process_main\.py$"
)
MAX_FUNCTION: Final = 60
BOOTSTRAP: Final = ("_bootstrap", "_bootstrap_inner", "run")


class Frame(NamedTuple):
    """One function call of a stack. A frame without a file stands for frames that were left out."""

    file: str
    line: int
    function: str


class Unanswered(NamedTuple):
    """A rank that gave no stacks, and what the kernel reports of it.

    Attributes
    ----------
    pid : int or None
        Its process id, if it is known here.
    state : str
        ``running``, ``sleeping``, ``stopped``, ``uninterruptible sleep``, ...; "" if the kernel reports nothing.
    wait_channel : str
        The function of the kernel in which the process waits, or "".
    reason : str
        Why there are no stacks.
    """

    pid: int | None
    state: str
    wait_channel: str
    reason: str

    def __str__(self) -> str:
        state = self.state and f"{self.state}{f' in {clean(self.wait_channel)}' if self.wait_channel else ''}; "
        return f"{'' if self.pid is None else f'pid {self.pid}: '}{clean(state)}{clean(self.reason)}"


class StackGroup(NamedTuple):
    """Threads of one or more ranks that have the same stack.

    Attributes
    ----------
    ranks : tuple of int
        The ranks.
    threads : tuple of str
        The different names of the threads; "" is a thread that Python code did not name.
    thread_count : int
        The number of threads; a rank may have several with this stack.
    frames : tuple of Frame
        The calls, outermost first; each has `file`, `line` and `function`.
    sources : tuple of str
        The source line of each frame, or "" if it is unknown.
    odd : bool
        Whether only few ranks are here while most are elsewhere with the thread of this name, or do not have it.
    """

    ranks: tuple[int, ...]
    threads: tuple[str, ...]
    thread_count: int
    frames: tuple[Frame, ...]
    sources: tuple[str, ...]
    odd: bool


def without_imports(group: StackGroup) -> StackGroup:
    """Return a group without the calls with which the interpreter imports modules, as in a traceback."""
    kept = [at for at, frame in enumerate(group.frames) if frame.file not in _IMPORTING] or range(len(group.frames))
    frames = tuple(group.frames[at] for at in kept)
    return group._replace(frames=frames, sources=tuple(group.sources[at] for at in kept))


def start_of(groups: Sequence[StackGroup]) -> int:
    """Return how many shared outer frames start a process or thread. Texts fold them."""
    shared = 0
    while len(ways_of(groups, shared)) == 1 and shared < len(groups[0].frames) - 1:
        shared += 1
    places = enumerate(groups[0].frames[:shared], 1)
    return max((depth for depth, frame in places if _is_starting(frame)), default=0)


def _is_starting(frame: Frame) -> bool:
    return bool(re.search(_STARTING, frame.file)) or (frame.file.endswith("/threading.py") and frame.function in BOOTSTRAP)


def ways_of(groups: Sequence[StackGroup], depth: int) -> list[list[StackGroup]]:
    """Divide groups by their frame at this depth, in their order; a group that ends here is a separate way."""
    ways: dict[Frame | None, list[StackGroup]] = {}
    for group in groups:
        ways.setdefault(group.frames[depth] if depth < len(group.frames) else None, []).append(group)
    return sorted(ways.values(), key=lambda way: -len(frozenset[int]().union(*(group.ranks for group in way))))


def place_of(frames: tuple[Frame, ...]) -> str:
    """Return the innermost call outside of libraries, as one short text; "" if no call is known."""
    calls = [frame for frame in frames if frame.file]
    own = [frame for frame in calls if not re.match(LIBRARY, frame.file) and not frame.file.startswith("<frozen ")]
    if not calls:
        return ""
    frame = (own or calls)[-1]
    return clean(f"{frame.function[:MAX_FUNCTION]} ({frame.file.rpartition('/')[2]}:{frame.line})")


def unanswered_texts(unanswered: Mapping[int, Unanswered]) -> list[str]:
    """Return a text for each kind of ranks without stacks; that of a single rank has its pid."""
    kinds: defaultdict[Unanswered, list[int]] = defaultdict(list)
    for rank, each in unanswered.items():
        kinds[each._replace(pid=None)].append(rank)
    return [
        f"{format_ranks(ranks)}{f', {unanswered[ranks[0]]}' if len(ranks) == 1 else f': {each}'}"
        for each, ranks in kinds.items()
    ]


def clean(text: str) -> str:
    """Return text of a rank without anything that a terminal could take for a command."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
