"""A setting of a program for all sockets of its process does not affect its logs."""

from __future__ import annotations

import pytest

from .procs import run_python

WORKER = "import socket; {}; import logging, meshlog_handler as m; m.install(); logging.info('record'); print('printed')"

CLIENT = """
import socket, subprocess, sys
from meshlog_handler import LogClient
exec(sys.argv[1])
with LogClient() as client:
    exec(sys.argv[2])
    subprocess.run([sys.executable, "-c", sys.argv[3]], env=client.environ(), check=True, timeout=60)
    client.flush()
"""

RELAY = """
import socket, subprocess, sys
exec(sys.argv[1])
from meshlog_handler import LogClient, LogRelay
with LogClient() as client, LogRelay(client.address) as relay:
    exec(sys.argv[2])
    subprocess.run([sys.executable, "-c", sys.argv[3]], env=relay.environ(), check=True, timeout=60)
"""

MESH = """
import logging, socket, sys
exec(sys.argv[1])
from meshlog_handler import this_host
def work():
    socket.setdefaulttimeout(0.01)
    logging.info("record")
    print("printed")
with this_host().spawn_procs(per_host={"gpus": 1}, start_method=sys.argv[3]) as procs:
    exec(sys.argv[2])
    procs.call(work).get(60)
    procs.flush().get(60)
    procs.call(work).get(60)
"""

SHORT = "socket.setdefaulttimeout(0.01)"


@pytest.mark.parametrize("program", [CLIENT, RELAY], ids=["client", "relay"])
@pytest.mark.parametrize(
    ("before", "later", "worker"), [(SHORT, "", "pass"), ("", SHORT, "pass"), ("", "", SHORT), (SHORT, "", SHORT)]
)
def test_a_default_socket_timeout_does_not_affect_clients_and_relays(
    program: str, before: str, later: str, worker: str
) -> None:
    said = run_python("-c", program, before, later, WORKER.format(worker))
    assert (said.stdout, said.stderr) == ("[0] printed\n", "[0] record\n")


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize(("before", "later"), [(SHORT, ""), ("", SHORT)])
def test_a_default_socket_timeout_does_not_affect_a_mesh(method: str, before: str, later: str) -> None:
    said = run_python("-c", MESH, before, later, method)
    assert (said.stdout, said.stderr) == ("[0] printed\n" * 2, "[0] record\n" * 2)
