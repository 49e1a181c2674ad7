"""Hooks that a program registers with ``os.register_at_fork`` can log, also if they run in the child before our hooks."""

from __future__ import annotations

import pytest

from .procs import run_python

PROGRAM = """
import logging, multiprocessing, os, sys

log = logging.getLogger("hooks")
os.register_at_fork(
    before=lambda: log.info("before"),
    after_in_parent=lambda: log.info("in the parent"),
    after_in_child=lambda: log.info("in the child"),
)

from meshlog_handler import LogClient, install


def work(address):
    os.environ["RANK"] = "0"
    install(address, capture=False)
    log.info("in the child")  # the shape of this record is known when the hook logs
    for number in range(3):
        log.info("number %d", number)
        pid = os.fork()
        if not pid:
            if number:
                log.info("forked %d", number)
            os._exit(0)
        os.waitpid(pid, 0)
        log.info("number %d again", number)


class Shown(logging.Handler):
    def emit(self, record):
        shown.append((record.process, record.getMessage()))


shown = []
if __name__ == "__main__":
    with LogClient(Shown()) as client:
        process = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(client.address,))
        process.start()
        process.join()
        client.flush()
    for pid, text in shown:
        print("worker" if pid == process.pid else "child", text)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_hook_that_runs_in_the_child_logs_as_the_child(method: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("program") / "hooks_that_log.py"
    path.write_text(PROGRAM)
    shown = run_python(str(path), method).stdout.splitlines()
    expected = ["worker in the child"]
    for number in range(3):
        expected += [f"worker number {number}", "worker before", "worker in the parent", "child in the child"]
        expected += [f"child forked {number}"] * bool(number)
        expected.append(f"worker number {number} again")
    assert [line for line in shown if line.startswith("worker")] == [line for line in expected if line.startswith("worker")]
    assert sorted(shown) == sorted(expected)


QUEUE = """
import logging, logging.handlers, os, sys

log = logging.getLogger()
os.register_at_fork(
    before=lambda: log.info("before"),
    after_in_parent=lambda: log.info("in the parent"),
    after_in_child=lambda: log.info("in the child"),
)

from meshlog_handler import LogClient


class Shown(logging.Handler):
    def emit(self, record):
        shown.append((record.process, record.getMessage()))


shown = []
with LogClient(Shown()) as client:
    log.addHandler(logging.handlers.QueueHandler(client.queue))
    log.setLevel(logging.INFO)
    if sys.argv[1] == "joined":
        log.info("first")
    for number in range(2):
        pid = os.fork()
        if not pid:
            log.info("forked %d", number)
            os._exit(0)
        log.info("number %d", number)
        os.waitpid(pid, 0)
    client.flush()
for pid, text in shown:
    print("parent" if pid == os.getpid() else "child", text)
"""


@pytest.mark.parametrize("before", ["joined", "new"])
def test_a_hook_logs_to_the_queue_of_a_client_in_the_process_that_forks(
    before: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("program") / "hooks_that_put.py"
    path.write_text(QUEUE)
    done = run_python(str(path), before)
    shown = done.stdout.splitlines()
    parent = ["parent first"] * (before == "joined")
    parent += [f"parent {text}" for number in range(2) for text in ("before", "in the parent", f"number {number}")]
    child = [f"child {text}" for number in range(2) for text in ("in the child", f"forked {number}")]
    assert [line for line in shown if line.startswith("parent")] == parent
    assert sorted(shown) == sorted(parent + child)
    assert not done.stderr
