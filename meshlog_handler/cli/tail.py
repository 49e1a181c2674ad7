"""``meshlog tail``: the last records of every rank, read from the journals of a run that lives or died. Changes nothing."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from ..errors import MeshlogError, ProtocolError
from ..journal.reader import JournalReader
from ..journal.side_files import read_side_file, side_path
from ..protocol.decode import Item, RecordDecoder
from ..protocol.ranks import format_ranks

_NAME: Final = re.compile(r"\d+-\d+-(?:[0-9a-f]{16}-)?rank(\d*)\.journal")
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_CHUNK: Final = 4096


class NoJournals(MeshlogError):
    """The caller's: there is nothing to read where a run is looked for."""


@dataclass
class RankTail:
    """The last records of one rank, of all processes that bore it. `rank` None is the process that showed the logs."""

    rank: int | None
    items: list[Item] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)


def read_tails(directory: str, lines: int, ranks: frozenset[int] | None, complain: Callable[[str], None]) -> list[RankTail]:
    """Return the last records of each rank, in order of time.

    Parameters
    ----------
    directory : str
        Where journals lie: the log directory of a run, or its run directory.
    lines : int
        Records of each rank.
    ranks : frozenset of int or None
        Which ranks; None: all.
    complain : Callable[[str], None]
        Told of what cannot be read.

    Raises
    ------
    NoJournals
        If there are none of these ranks.
    OSError
        If the directory cannot be read.
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
                raise ProtocolError("it is no file")
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
    """Yield what can be read. A journal that is being written may change between two reads: nothing in it is trusted."""

    def read_large(number: int) -> bytes:
        for kept in (True, False):
            side = side_path(path, number, kept=kept)
            if os.path.exists(side):
                return read_side_file(side)
        raise ProtocolError("it was too large for the journal, and is not kept any more")

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
                    complain(f"{path}: the rest of a part is left out, for it cannot be read: {failure}")
                    at = len(piece.data)
                yield from (item for item in items if item[1] is not None)
    except ProtocolError as failure:
        complain(f"{path}: the rest is left out, for it cannot be read: {failure}")


def _when(item: Item) -> float:
    return item[0]


def _explain(directory: str, known: set[int]) -> str:
    if known:
        return f"no journal of these ranks in {directory}. There are those of {format_ranks(known)}."
    return (
        f"no journals in {directory}. They lie in the --log-dir of a run; of one without, in its run directory, "
        f"/dev/shm/meshlog-{os.getuid()}/run-* (or meshlog-{os.getuid()}/run-* in TMPDIR), until its end. "
        f"Only ranks that log through meshlog_handler have one."
    )


def print_tails(
    directory: str, lines: int, ranks: frozenset[int] | None, as_json: bool, complain: Callable[[str], None]
) -> None:
    """Print to stdout what `read_tails` returns; tell `complain` of what cannot be read, and of what was dropped."""
    import logging
    import sys

    from ..output.formatter import MeshFormatter
    from ..output.json_formatter import JsonFormatter

    formatter: logging.Formatter = JsonFormatter() if as_json else MeshFormatter(_FORMAT)
    tails = read_tails(directory, lines, ranks, complain)
    encoding = sys.stdout.encoding or "utf-8"
    for _, template, values in merged(tails):
        record = template.build(values)
        try:
            text = formatter.format(record)
        except Exception as failure:  # a time that no calendar has, and the like: the journal is not trusted
            text = f"{record.getMessage()} [cannot be formatted: {type(failure).__name__}]"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()
    for tail in tails:
        for reason, count in sorted(tail.dropped.items()):
            complain(f"rank {tail.rank} dropped {count:,} records ({reason})")
