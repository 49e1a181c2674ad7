"""A formatter gives the same text in the client as in the process that logged the record."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
from pathlib import Path

import pytest

from meshlog_handler import LogClient

from . import formatting
from .procs import DEADLINE, join_all, run_python, started


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


FACTORY = """
import logging, multiprocessing, sys

def make(*args, **kwargs):
    record = logging.LogRecord(*args, **kwargs)
    record.request = len(record.msg)
    return record

logging.setLogRecordFactory(make)
from meshlog_handler import JsonFormatter, LogClient, MeshFormatter, install

def work(address):
    install(address)
    for number in range(3):
        logging.getLogger("app").warning("step %d", number)

if __name__ == "__main__":
    text, data = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stdout)
    text.setFormatter(MeshFormatter("%(message)s %(request)d"))
    data.setFormatter(JsonFormatter())
    with LogClient(text, data) as client:
        worker = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(client.address,))
        worker.start()
        worker.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_a_record_factory_adds_arrives(method: str, tmp_path: Path) -> None:
    script = tmp_path / "factory.py"
    script.write_text(FACTORY)
    lines = run_python(str(script), method).stdout.splitlines()
    assert lines[0::2] == [f"[0] step {number} 7" for number in range(3)]
    assert [json.loads(line)["request"] for line in lines[1::2]] == [7, 7, 7]
