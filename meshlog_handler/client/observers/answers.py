"""What a client answers to its observers, as plain data. Any thread but the client's: an answer takes time."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from ..._version import __version__
from ...errors import BusyError, FlushTimeout, MeshlogError
from ...protocol.codec import pack
from ...protocol.messages import Prepare, level_config
from ...protocol.observer_messages import Ask, AskAbout, AskFlush, AskInsight, AskLevel, AskStacks, AskStats, Reply
from ...system.error_reports import describe
from ...system.futures import finished
from ...transport.runs import command_line
from ..downstream.relayed_peers import counters_of
from ..health.insights import INSIGHT_SEC
from ..health.stack_collector import downstream_stacks
from ..peers.peer import of_ranks

if TYPE_CHECKING:
    from ..flushes.receipt import FlushReceipt
    from ..requests import Requests

MAX_REPLY: Final = 16 << 20
"""Bytes of a reply to an observer."""

_LEVEL_SEC: Final = 5.0
_GIVEN_UP_SEC: Final = 1.0


def answer(client: Requests, since: float, question: Ask) -> Reply:
    """Return the reply to a question. `since` is when the client was started."""
    encoded = pack(None)
    fault = error = ""
    try:
        encoded = pack(_answer(client, question, since))
    except FlushTimeout as failure:
        encoded, fault, error = pack(_plain_receipt(failure.receipt)), "FlushTimeout", str(failure)
    except MeshlogError as failure:
        fault, error = type(failure).__name__, str(failure)
    except Exception as failure:  # the observer gets the reason, and the client goes on
        fault, error = "MeshlogError", describe(failure)
    if len(encoded) > MAX_REPLY:
        encoded, fault, error = pack(None), "MeshlogError", f"the answer has more than {MAX_REPLY >> 20} MiB"
    return Reply(question.request, encoded, fault, error)


def _answer(client: Requests, question: Ask, since: float) -> Any:
    if isinstance(question, AskAbout):
        stats = client.stats()
        return {
            "pid": os.getpid(),
            "command": command_line(),
            "since": since,
            "now": time.time(),
            "hostname": socket.gethostname(),
            "version": __version__,
            "ranks": tuple(sorted(rank for rank in stats if isinstance(rank, int))),
            "live": tuple(sorted(rank for rank, each in stats.items() if isinstance(rank, int) and each.alive)),
            "records": sum(each.received + each.lines for each in stats.values()),
            "shown": stats.shown,
        }
    if isinstance(question, AskStats):
        stats = client.stats()
        return tuple((rank, counters_of(each)) for rank, each in stats.items()), stats.hidden, stats.shown
    if isinstance(question, AskInsight):
        return client.find(INSIGHT_SEC).encode(MAX_REPLY - 1024)
    if isinstance(question, AskStacks):
        found = client.stack_collector.collect(of_ranks(question.ranks), question.timeout)
        stacks = downstream_stacks(question.request, found)
        return stacks.answers, stacks.found
    if isinstance(question, AskFlush):
        return _plain_receipt(client.flush(question.timeout))
    assert isinstance(question, AskLevel)  # there is no other
    return _set_level(client, question)


def _plain_receipt(receipt: FlushReceipt) -> dict[str, Any]:
    return {name: getattr(receipt, name) for name in receipt.__dataclass_fields__}


def _set_level(client: Requests, question: AskLevel) -> tuple[tuple[int, ...], dict[int, str]]:
    """Return the ranks that have applied a level, and the reasons of those that have not."""
    command = Prepare(client.next_request(), level_config(question.level, question.logger or ""), question.for_sec, final=True)
    if question.ranks is None and question.for_sec is None:
        for mesh in client.registry.meshes():
            client.set_default(mesh, command.replaced(request=0))
    future = client.send_command_soon(command, of_ranks(question.ranks))
    if not finished(future, _LEVEL_SEC):
        client.give_up(command.request)
        if not finished(future, _GIVEN_UP_SEC):
            raise BusyError("a handler blocks the client's thread.")
    answers: dict[Any, Any] = {member.rank: each for member, each in future.result().items()}  # type: ignore[attr-defined]  # see `Target`
    refused = {rank: each for rank, each in answers.items() if isinstance(each, str)}
    for rank in question.ranks or ():
        if rank not in answers:
            refused[rank] = "it is not connected, or its program has not called install()"
    return tuple(sorted(rank for rank in answers if rank not in refused)), refused
