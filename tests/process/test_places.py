"""Directories: relative ones, long paths, a run directory that is removed, and privileges that a process gives up."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from meshlog_handler import LogClient, SettingError
from meshlog_handler.errors import DirectoryError
from meshlog_handler.testing import collected
from meshlog_handler.transport.channel import Address
from tests.waiting import until

from .procs import DEADLINE, importing, run_command, run_python

WORKER = """
import logging, os, sys, meshlog_handler
meshlog_handler.install()
logging.info("first")
print("printed", flush=True)
sys.stdin.readline()
logging.info("last")
os.kill(os.getpid(), 9)
"""


def run(program: str, where: Path, *words: str, **variables: str) -> str:
    """Run a program in a directory; return its stdout and stderr, or fail."""
    ran = run_command(sys.executable, "-c", program, *words, cwd=where, env={**os.environ, **variables}, code=0)
    return ran.stdout + ran.stderr


CLIENT = """
import os, subprocess, sys
from meshlog_handler import LogClient
client = LogClient(log_dir="logs")
os.chdir("elsewhere")
with client:
    subprocess.run([sys.executable, "-c", sys.argv[1]], env=client.environ(), cwd="/", input=b"go\\n")
"""

MESH = """
import os, sys
from meshlog_handler import this_host
procs = this_host().spawn_procs(per_host={"gpus": 1}, log_dir="logs")
os.chdir("elsewhere")
import logging
with procs:
    procs.call(lambda: logging.getLogger().info("last")).get(60)
"""

RELAY = """
import os, subprocess, sys
from meshlog_handler import LogClient, LogRelay
with LogClient() as client:
    relay = LogRelay(client.address, log_dir="logs")
    os.chdir("elsewhere")
    with relay:
        subprocess.run([sys.executable, "-c", sys.argv[1]], env=relay.environ(), cwd="/", input=b"go\\n")
"""


@pytest.mark.parametrize("program", [CLIENT, MESH, RELAY], ids=["client", "mesh", "relay"])
def test_a_relative_log_dir_stays_where_it_was_when_the_program_named_it(program: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    said = run(program, tmp_path, WORKER)
    assert "meshlog:" not in said
    assert "last" in (tmp_path / "logs" / "rank-0.log").read_text()
    assert os.listdir(tmp_path / "elsewhere") == []


LONG_MESH = """
import logging, os
from meshlog_handler import this_host
with this_host().spawn_procs(per_host={"gpus": 2}) as procs:
    procs.call(lambda: logging.getLogger().warning("record")).get(60)
"""

LONG_CLIENT = """
import logging, subprocess, sys
from meshlog_handler import LogClient
with LogClient() as client:
    subprocess.run([sys.executable, "-c", "import logging, meshlog_handler as m; m.install(); logging.info('record')"],
                   env=client.environ(), check=True)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="a long path has no short name here")
@pytest.mark.parametrize("program", [LONG_MESH, LONG_CLIENT], ids=["mesh", "client"])
@pytest.mark.parametrize("variable", ["TMPDIR", "MESHLOG_RUN_DIR"])
def test_a_run_directory_can_have_a_long_path(program: str, variable: str, tmp_path: Path) -> None:
    place = tmp_path / ("x" * 100) / ("y" * 100)
    place.mkdir(parents=True)
    said = run(program, tmp_path, **{variable: str(place)})
    assert "record" in said
    assert "meshlog:" not in said
    assert [path for path in place.rglob("*") if path.is_socket()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="there are no sockets without a place in the file system")
@pytest.mark.usefixtures("real_stdout")
def test_a_worker_can_join_after_the_run_directory_was_removed() -> None:
    with collected() as logs:
        place = Path(Address.parse(logs.address).path).parent
        shutil.rmtree(place)
        ran = run_python("-c", WORKER, env=logs.client.environ(), text="go\n", code=-9)
        assert ran.stderr == ""
        logs.flush()
        until(lambda: {"first", "printed", "last"} <= set(logs.messages), DEADLINE)
        assert place.stat().st_mode & 0o777 == 0o700
    assert not place.exists()


ENDING = """
import logging, sys, meshlog_handler
meshlog_handler.install()
logging.info("first")
sys.stdin.readline()
for number in range(3000):
    logging.info("number %d", number)
"""


def test_a_worker_whose_journal_was_removed_exits_when_its_records_are_sent() -> None:
    with collected() as logs:
        command = [sys.executable, "-c", ENDING]
        with subprocess.Popen(command, env=importing(logs.client.environ()), stdin=subprocess.PIPE) as worker:
            until(lambda: "first" in logs.messages, DEADLINE)
            shutil.rmtree(Path(Address.parse(logs.address).path).parent)
            worker.communicate(b"go\n", DEADLINE)
        logs.flush()
        assert [text for text in logs.messages if text.startswith("number ")] == [f"number {each}" for each in range(3000)]


LARGE = """
import logging, sys, meshlog_handler
meshlog_handler.install()
logging.info("first")
sys.stdin.readline()
logging.info("large" + 3_000_000 * "x")
"""


def test_a_large_record_arrives_after_the_run_directory_was_removed() -> None:
    with collected() as logs:
        place = Path(Address.parse(logs.address).path).parent
        command = [sys.executable, "-c", LARGE]
        with subprocess.Popen(command, env=importing(logs.client.environ()), stdin=subprocess.PIPE) as worker:
            until(lambda: "first" in logs.messages, DEADLINE)
            shutil.rmtree(place.parent)
            worker.communicate(b"go\n", DEADLINE)
        logs.flush()
        assert [len(text) for text in logs.messages] == [5, 3_000_005]
    assert not place.exists()


def test_a_loss_of_records_with_a_removed_journal_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    said = ""
    with collected() as logs:
        env = importing(logs.client.environ())
        command = [sys.executable, "-c", WORKER]
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
            until(lambda: "first" in logs.messages, DEADLINE)
            shutil.rmtree(Path(Address.parse(logs.address).path).parent)
            worker.kill()
        until(lambda: any("SIGKILL" in text for text in logs.messages), DEADLINE)
        said = capfd.readouterr().err
    assert "was removed while it ran" in said


@pytest.mark.parametrize("path", ["/proc/x", "/dev/null", "/dev/null/logs"])
def test_a_log_dir_that_cannot_be_used_is_an_error_that_names_it(path: str) -> None:
    client = LogClient(log_dir=path)
    with pytest.raises(
        DirectoryError, match=r"^log_dir='/.* cannot be used: .*Valid: a directory that this user can"
    ) as failure:
        client.start()
    assert isinstance(failure.value, SettingError)
    assert isinstance(failure.value, OSError)
    assert failure.value.errno in (errno.ENOENT, errno.EEXIST, errno.ENOTDIR)
    assert repr(path) in str(failure.value)
    assert not client.running


@pytest.mark.parametrize(("path", "why"), [("/nonexistent", "there is no such directory"), ("/dev/null", "there is no such")])
def test_a_run_directory_that_cannot_be_used_is_an_error_that_names_its_variable(
    path: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHLOG_RUN_DIR", path)
    for start in (LogClient(job="").start, LogClient(job="shop").start):
        with pytest.raises(DirectoryError, match=rf"^MESHLOG_RUN_DIR='{path}' cannot be used: {why}.* Valid: a directory"):
            start()


GIVE_UP = """
import logging, os, sys, meshlog_handler
{before}
os.setgid(65534)
os.setuid(65534)
{after}
logging.warning("record %d", 1)
print("printed", flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give up its rights")
@pytest.mark.usefixtures("real_stdout")
def test_the_records_of_a_worker_that_gave_up_its_privileges_are_shown() -> None:
    with collected() as logs:
        program = GIVE_UP.format(before="meshlog_handler.install()", after="")
        ran = run_python("-c", program, env=logs.client.environ())
        assert ran.stderr == ""
        logs.flush()
        assert {"record 1", "printed"} <= set(logs.messages)
        program = GIVE_UP.format(before="meshlog_handler.install", after="meshlog_handler.install()")
        ran = run_python("-c", program, env=logs.client.environ())
        assert ran.stdout == "printed\n"  # the client refuses another user's process, which then shows its own records
        assert "the logs of this process are not forwarded" in ran.stderr
        assert "record 1" in ran.stderr


GIVEN_UP_CLIENT = """
import logging, os
from meshlog_handler import LogClient, install
with LogClient() as client:
    address = client.address
    os.setgid(65534)
    os.setuid(65534)
    if not os.fork():
        install(address)
        logging.info("record")
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(os.getuid() != 0 or sys.platform != "linux", reason="only root can give up its rights")
def test_a_worker_can_join_a_client_that_gave_up_its_privileges(tmp_path: Path) -> None:
    assert "[0] record\n" in run(GIVEN_UP_CLIENT, tmp_path, MESHLOG_RUN_DIR=str(tmp_path))


STARTS = """
import logging, sys
from meshlog_handler import this_host
def work():
    logging.getLogger().warning("record")
if __name__ == "__main__":
    with this_host().spawn_procs(per_host={"gpus": 1}, start_method=sys.argv[1]) as procs:
        procs.call(work).get(60)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts for one process alone are Linux's")
@pytest.mark.parametrize("mount", ["none /proc", "-o nr_inodes=1 none /dev/shm"], ids=["no proc", "no inodes"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_mesh_starts_without_proc_and_without_room_in_shared_memory(method: str, mount: str, tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    script = f'mount -t tmpfs {mount} && exec "$0" "$@"'
    if subprocess.run([*unshare, script, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    (tmp_path / "mesh.py").write_text(STARTS)
    env = {name: value for name, value in os.environ.items() if name != "MESHLOG_RUN_DIR"}
    ran = run_command(*unshare, script, sys.executable, str(tmp_path / "mesh.py"), method, env=env)
    assert (ran.returncode, ran.stderr) == (0, "[0] record\n")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_mesh_starts_from_a_zip_file(method: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mesh.pyz", "w") as file:
        file.writestr("__main__.py", STARTS)
    ran = run_python(str(tmp_path / "mesh.pyz"), method, code=None)
    assert (ran.returncode, ran.stderr) == (0, "[0] record\n")


WITHOUT_DESCRIPTORS = """
import logging, resource, sys, meshlog_handler
meshlog_handler.install()
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
logging.error("begins")
opened = []
try:
    while True:
        opened.append(open("/dev/null"))
except OSError:
    logging.error("no descriptor is left")
sys.exit(3)
"""


def test_a_worker_that_has_used_up_its_descriptors_ends_with_its_own_exit_code() -> None:
    with collected() as logs:
        for _ in range(3):
            run_python("-c", WITHOUT_DESCRIPTORS, env=logs.client.environ(), code=3)
        logs.flush()
        assert logs.messages == ["begins", "no descriptor is left"] * 3
