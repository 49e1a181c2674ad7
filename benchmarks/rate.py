"""Records a second from several processes to a handler in another process that counts them.

The clock runs from the word "go" to the last record in the handler. With a window of 1 s (all records similar), it runs until
a flush reports that all have been received and shown. Every record is accounted for, or the run fails. "The limit" is the
same processes logging into a handler that does nothing, until the last is done: no peer can be faster than the calls
themselves. Where processes and client share few cores, as here, a peer's rate reflects the work of all of them together:
"processor time" is that work, of the processes and of the one that shows, all their threads. On a quiet machine it
says the same as the rate; on a busy machine it stays meaningful.

Records of about 20 characters are the template of `call`; of 100 and 1,000, most of the text is an argument, which
travels with each record. Records with `extra` carry three values, those with an exception a traceback of two frames, and
those with objects a path and a decimal number as arguments.
loguru and multiprocessing-logging render the message before they send it: their handler gets text, ours a record.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from .crew import Crew, Gate
from .handlers import Counter
from .peers import LIMIT, MESH, RECIPE, Info, Mesh, Peer, others
from .rounds import Row, Scale, in_turn, missing_rows

UNIT = "records/s"
CALL = "µs a call"
CPU = "µs a record"
WINDOW = Mesh("MeshHandler, window of 1 s", settles_late=True, window=1.0)


@dataclass(frozen=True)
class Work:
    """A number of processes that log a number of records each."""

    procs: int
    records: int
    size: int = 20
    kind: str = "plain"

    def __str__(self) -> str:
        what = f" {self.kind}" if self.kind != "plain" else ""
        size = f", {self.size:,} characters" if self.size != 20 else ""
        return f"{self.procs} proc{'s' * (self.procs > 1)} x {self.records:,}{what} records{size}"


def measure(scale: Scale) -> list[Row]:
    """Measure all peers at the base work, and ours and the standard library's at the other kinds."""
    there, absent = others()
    base = Work(4, scale.pick(30_000, 10_000))
    rows = _compare(base, [LIMIT, MESH, WINDOW, RECIPE, *there], scale.rounds)
    rows += missing_rows(str(base), UNIT, absent)
    less = scale.pick(20_000, 8_000)
    varied = [
        *(Work(procs, 2 * less // procs) for procs in scale.pick((1, 2, 8), (1, 8))),
        *(Work(4, less // 2, size) for size in scale.pick((100, 1000), (1000,))),
        *(Work(4, less // 4, kind=kind) for kind in tuple(_KINDS)[1:]),
    ]
    for work in varied:
        rows += _compare(work, [LIMIT, MESH, RECIPE], scale.few)
    return rows


def cpu_of(work: str) -> str:
    """Return the table's name for the processor time of a kind of work."""
    return f"{work}: processor time"


class Cost(NamedTuple):
    """Records per second, wall-time microseconds per call meanwhile, and total processor-time microseconds per record."""

    rate: float
    call: float
    cpu: float


def _compare(work: Work, peers: list[Peer], rounds: int) -> list[Row]:
    runs = in_turn({peer.name: partial(run, peer, work) for peer in peers}, rounds)
    rows = []
    for place, (what, unit) in enumerate(((str(work), UNIT), (f"{work}: the call", CALL), (cpu_of(str(work)), CPU))):
        for peer in peers:
            bases = tuple(base.name for base in (LIMIT, RECIPE) if base is not peer and peer is not LIMIT)
            rows.append(Row(what, peer.name, unit, [cost[place] for cost in runs[peer.name]], bases))
    return rows


def run(peer: Peer, work: Work) -> Cost:
    """Return the cost of one run."""
    total = work.procs * work.records
    counter = Counter(total)
    with (
        peer.listen(counter) as listening,
        Crew(log, [(peer, listening.ticket, work)] * work.procs, peer.method) as crew,
    ):
        crew.ready()
        spent = time.process_time()
        began = crew.go()
        if peer.settles_late:
            calls = crew.ready()
            listening.settle()
            ended = time.perf_counter()
        else:
            listening.settle()
            ended = time.perf_counter()
            calls = crew.ready()
        spent = time.process_time() - spent
        crew.go()
        spent += sum(crew.results())
    return Cost(total / (ended - began), sum(calls) / total * 1e6, spent / total * 1e6)


def log(gate: Gate, peer: Peer, ticket: Any, work: Work) -> float:
    """In a process: log, report the seconds it took, and return the seconds of processor time, including background work."""
    info = peer.join(ticket)
    emit = _KINDS[work.kind]
    text = "x" * (work.size - 12)
    gate.wait()
    spent, began = time.process_time(), time.perf_counter()
    emit(info, peer.template if work.size == 20 else "step %d %s", text, work)
    gate.wait(time.perf_counter() - began)
    return time.process_time() - spent


def _plain(info: Info, template: str, text: str, work: Work) -> None:
    if work.size == 20:
        for number in range(work.records):
            info(template, number, 0.5)
    else:
        for number in range(work.records):
            info(template, number, text)


def _extra(info: Info, template: str, text: str, work: Work) -> None:
    for number in range(work.records):
        info(template, number, 0.5, extra={"request": "f3a91c", "user": number, "spent": 0.25})


def _f_string(info: Info, template: str, text: str, work: Work) -> None:
    for number in range(work.records):
        info(f"step {number} loss={0.5:.3f}")


def _mapping(info: Info, template: str, text: str, work: Work) -> None:
    for number in range(work.records):
        info("step %(step)d loss=%(loss).3f", {"step": number, "loss": 0.5})


def _objects(info: Info, template: str, text: str, work: Work) -> None:
    for _ in range(work.records):
        info("reading %s of %s", _PATH, _DAY)


def _exception(info: Info, template: str, text: str, work: Work) -> None:
    for number in range(work.records):
        try:
            _divide(number)
        except ZeroDivisionError:
            info(template, number, 0.5, exc_info=True)


_KINDS: Final = {
    "plain": _plain,
    "f-string": _f_string,
    "extra": _extra,
    "mapping": _mapping,
    "objects": _objects,
    "exception": _exception,
}
_PATH: Final = PurePosixPath("/data/shard-00017.parquet")
_DAY: Final = Decimal("17.25")


def _divide(number: int) -> float:
    return number / 0
