"""A formatter gives the same text in the client as in the process that logged the record."""

from __future__ import annotations

import io
import logging
import multiprocessing

import pytest

from meshlog_handler import LogClient

from . import formatting
from .procs import DEADLINE, join_all, started


@pytest.mark.parametrize("formatter", formatting.FORMATTERS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_formatter_writes_the_same_text_in_the_client(method: str, formatter: str) -> None:
    pytest.importorskip("structlog")
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatting.FORMATTERS[formatter]())
    mine, theirs = multiprocessing.Pipe(duplex=False)
    with mine, theirs, LogClient(handler) as client:
        with started(method, formatting.log_everything, [(client.address, formatter, theirs)]) as procs:
            assert mine.poll(DEADLINE)
            expected = mine.recv()
            assert join_all(procs) == [0]
        client.flush()
    assert out.getvalue().splitlines() == expected.splitlines()
