"""``meshlog tail``: prints the last records of every rank from the journals of a current or past run. Read-only."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from ...errors import ProtocolError
from ...journal.reader import JournalReader
from ...journal.side_files import read_side_file, side_path
from ...protocol.decode import Item, RecordDecoder
from ...protocol.ranks import format_ranks
from ..messages import CommandError

_NAME: Final = re.compile(r"\d+-\d+-(?:[0-9a-f]{16}-)?rank(\d*)\.journal")
_CHUNK: Final = 4096


class NoJournals(CommandError):
    """Caller error: the directory has no journals of these ranks."""


@dataclass
class RankTail:
    """The last records of one rank, of all its processes. `rank` is None for the client."""

    rank: int | None
    items: list[Item] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)


def read_tails(directory: str, lines: int, ranks: frozenset[int] | None, complain: Callable[[str], None]) -> list[RankTail]:
    """Return the last records of each rank, in order of time; `lines` is per rank, and `ranks` None means all.

    `directory` is the log directory of a run or its run directory. `complain` receives a text for each unreadable part. Raises
    `NoJournals` if there are no journals of these ranks, and `OSError` if the directory cannot be read.
    """
    tails: dict[int | None, RankTail] = {}
    known: set[int] = set()
    for name in sorted(os.listdir(directory)):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        rank = int(match[1]) if match[1] else None
        if rank is not None:
            known.add(rank)
        if ranks is not None and rank not in ranks:
            continue
        path = os.path.join(directory, name)
        tail = tails.setdefault(rank, RankTail(rank))
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ProtocolError("it is not a regular file")
            reader = JournalReader(path)
        except (OSError, ProtocolError) as failure:
            complain(f"{path} cannot be read: {failure}")
            continue
        newest: deque[Item] = deque(_read(path, reader, rank, complain), maxlen=lines)
        tail.items = sorted((*tail.items, *newest), key=_when)[-lines:] if lines else []
        for reason, _, count in reader.drops():
            tail.dropped[reason] = tail.dropped.get(reason, 0) + count
    if not tails:
        raise NoJournals(_explain(directory, known))
    return [tails[rank] for rank in sorted(tails, key=lambda rank: -1 if rank is None else rank)]


def merged(tails: list[RankTail]) -> list[Item]:
    """Return the records of all ranks, in order of time."""
    return sorted(chain.from_iterable(tail.items for tail in tails), key=_when)


def _read(path: str, reader: JournalReader, rank: int | None, complain: Callable[[str], None]) -> Iterator[Item]:
    """Yield the readable records. A journal may change between two reads while it is written, so its data is not trusted."""

    def read_large(number: int) -> bytes:
        for kept in (True, False):
            side = side_path(path, number, kept=kept)
            if os.path.exists(side):
                return read_side_file(side)
        raise ProtocolError("it is too large for the journal, and its side file is missing")

    identity: dict[str, object] = {"rank": rank, "local_rank": None, "hostname": None, "coords": {}}
    decoder = RecordDecoder(identity, read_large)
    try:
        for piece in reader.ranges():
            decoder.new_segment()
            at = 0
            while at < len(piece.data):
                items: list[Item] = []
                try:
                    at = decoder.decode(piece.data, at, _CHUNK, items)
                except ProtocolError as failure:
                    complain(f"{path}: the rest of a segment cannot be read: {failure}")
                    at = len(piece.data)
                yield from (item for item in items if item[1] is not None)
    except ProtocolError as failure:
        complain(f"{path}: the rest cannot be read: {failure}")


def _when(item: Item) -> float:
    return item[0]


def _explain(directory: str, known: set[int]) -> str:
    if known:
        return f"no journal of these ranks in {directory}. Found journals of {format_ranks(known)}."
    return (
        f"no journals in {directory}. Journals are in the --log-dir of a run. Without it, they are in the run directory, "
        f"/dev/shm/meshlog-{os.getuid()}/run-* (or meshlog-{os.getuid()}/run-* in TMPDIR), until the run ends. "
        f"Only ranks that log through meshlog_handler have a journal."
    )


def print_tails(
    directory: str, lines: int, ranks: frozenset[int] | None, as_json: bool, complain: Callable[[str], None]
) -> None:
    """Print the result of `read_tails` to stdout. `complain` receives unreadable parts and counts of dropped records."""
    import logging
    import sys

    from ...output.formatter import MeshFormatter
    from ...output.json_formatter import JsonFormatter
    from ...output.rank_files import FORMAT

    formatter: logging.Formatter = JsonFormatter() if as_json else MeshFormatter(FORMAT)
    tails = read_tails(directory, lines, ranks, complain)
    encoding = sys.stdout.encoding or "utf-8"
    for _, template, values in merged(tails):
        record = template.build(values)
        try:
            text = formatter.format(record)
        except Exception as failure:  # an invalid time, for example: the journal is not trusted
            text = f"{record.getMessage()} [cannot be formatted: {type(failure).__name__}]"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()
    for tail in tails:
        for reason, count in sorted(tail.dropped.items()):
            complain(f"rank {tail.rank} dropped {count:,} records ({reason})")
