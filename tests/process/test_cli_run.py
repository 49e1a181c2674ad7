"""``meshlog run``: the environment of the ranks, their output, how they end, and the exit reports and the summary."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshlog_handler.system.descriptors import takes_more
from meshlog_handler.transport.channel import Address
from meshlog_handler.transport.run_directory import base, clean
from tests.process.command_line import MESHLOG, PYTHON, WAIT_FOR, kept, meshlog, running
from tests.process.procs import DEADLINE, ROOT, importing, run_command, state_of, wait_stopped
from tests.waiting import until

PAUSE = "\nimport signal, sys\nprint('ready')\nwhile True: signal.pause()\n"


def gone(pid: int) -> bool:
    """Tell whether a process has ended; it may be a zombie."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


# The environment of a rank


def test_ranks_find_their_numbers_in_the_environment(tmp_path: Path) -> None:
    command = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MESHLOG_CAPTURED $MASTER_ADDR; cat"
    ran = meshlog(tmp_path, "run", "-n", "3", "--", "sh", "-c", command, env={"RANK": "77", "MASTER_ADDR": "here"})
    assert sorted(ran.out.splitlines()) == [f"[{rank}] {rank} {rank} 3 3 1 here" for rank in range(3)]
    assert ran.err == ""


def test_the_key_is_in_the_environment_and_in_no_command_line(tmp_path: Path) -> None:
    command = "tr '\\0' ' ' < /proc/$PPID/cmdline; tr '\\0' ' ' < /proc/$$/cmdline; echo; echo $MESHLOG_ADDRESS"
    ran = meshlog(tmp_path, "run", "--prefix", "none", "--", "sh", "-c", command)
    shown, _, address = ran.out.rstrip().rpartition("\n")
    key = address.partition("#")[2]
    assert len(key) >= 32
    assert "meshlog_handler run" in shown
    assert key not in shown


def test_output_printed_before_a_rank_is_killed_arrives(tmp_path: Path) -> None:
    code = "import os, sys; print('out'); sys.stderr.write('err'); sys.stdout.write('half'); os.kill(os.getpid(), 9)"
    ran = meshlog(tmp_path, "run", "-n", "2", "--", *PYTHON, code, code=137)
    assert sorted(ran.out.splitlines()) == ["[0] half", "[0] out", "[1] half", "[1] out"]
    assert {"[0] err", "[1] err"} <= set(ran.err.splitlines())


def test_records_keep_all_fields_and_printed_lines_appear_once(tmp_path: Path) -> None:
    code = (
        "import logging, meshlog_handler; meshlog_handler.install(); log = logging.getLogger('train')\n"
        "log.debug('values %d', 3, extra={'loss': 0.5}); print('printed')"
    )
    ran = meshlog(tmp_path, "run", "-n", "2", "--level", "DEBUG", "--json", "--", *PYTHON, code)
    shown = [json.loads(line) for line in ran.out.splitlines()]
    records = [each for each in shown if each["name"] == "train"]
    assert sorted((each["rank"], each["level"], each["message"], each["loss"]) for each in records) == [
        (0, "DEBUG", "values 3", 0.5),
        (1, "DEBUG", "values 3", 0.5),
    ]
    assert sorted((each["rank"], each["stream"]) for each in shown if each["message"] == "printed") == [
        (0, "stdout"),
        (1, "stdout"),
    ]
    assert len(shown) == 4
    assert ran.err == ""


# The output


def test_prefix_none_passes_bytes_through_unchanged(tmp_path: Path) -> None:
    data = b'\x1b[31mred\x1b[0m \xff\xfe \xc3\xa9\n  {"a": 1}\n'
    code = f"import os; os.write(1, {data!r}); os.write(2, {data!r})"
    meshlog(tmp_path, "run", "--prefix", "none", "--", *PYTHON, code)
    assert (tmp_path / "out").read_bytes() == data
    assert (tmp_path / "err").read_bytes() == data


def test_a_prefix_is_a_template(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "-n", "2", "--prefix", "{stream}<{local_rank}> ", "--", "sh", "-c", "echo a; echo b >&2")
    assert sorted(ran.out.splitlines()) == ["stdout<0> a", "stdout<1> a"]
    assert sorted(ran.err.splitlines()) == ["stderr<0> b", "stderr<1> b"]


def test_the_console_is_filtered_and_the_files_are_complete(tmp_path: Path) -> None:
    code = "printf '\\033[32mstep\\033[0m %s\\n' $RANK; echo WARNING: hot $RANK; echo secret $RANK"
    logs = tmp_path / "logs"
    options = ("--ranks-filter", "0,2-2", "--log-dir", str(logs), "--hide", "secr.t")
    ran = meshlog(tmp_path, "run", "-n", "4", *options, "--", "sh", "-c", code)
    expected = [*(f"[{rank}] WARNING: hot {rank}" for rank in range(4)), "[0] step 0", "[2] step 2"]
    assert sorted(ran.out.splitlines()) == sorted(expected)
    for rank in range(4):
        assert (logs / f"rank-{rank}.stdout").read_text() == f"step {rank}\nWARNING: hot {rank}\nsecret {rank}\n"


@pytest.mark.parametrize(("option", "shown"), [(("--ranks-filter", "none"), ["[0] WARNING: hot"]), (("--quiet",), [])])
def test_no_rank_is_shown_and_the_files_are_complete(option: tuple[str, ...], shown: list[str], tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    command = ("sh", "-c", "echo step; echo WARNING: hot; exit 3")
    ran = meshlog(tmp_path, "run", *option, "--log-dir", str(logs), "--", *command, code=3)
    assert ran.out.splitlines() == shown
    assert "meshlog: 1 of 1 ranks failed" in ran.err
    assert (logs / "rank-0.stdout").read_text() == "step\nWARNING: hot\n"


def test_aggregate_merges_similar_lines(tmp_path: Path) -> None:
    command = "echo step $RANK; echo exact $RANK"
    ran = meshlog(tmp_path, "run", "-n", "4", "--aggregate", "60", "--never", "exact", "--", "sh", "-c", command)
    assert sorted(ran.out.splitlines()) == [
        *(f"[{rank}] exact {rank}" for rank in range(4)),
        "[4 similar log lines] [ranks 0-3] step 0..3",
    ]


def test_grouped_tracebacks_of_ranks_are_each_shown_whole(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os\nrank = int(os.environ['RANK'])\nif rank < 3:\n    raise ValueError(rank)\nopen('/no such file')\n"
    )
    ran = meshlog(tmp_path, "run", "-n", "4", "--aggregate", "60", "--", *PYTHON[:1], str(tmp_path / "train.py"), code=1)
    shown = ran.err.partition("meshlog: 4 of 4 ranks failed")[0]
    assert shown.count("[2 similar log lines] [ranks ") == 1
    text = re.sub(r"(?m)^(\[[^]]*\] )+", "", shown)
    place = 'Traceback (most recent call last):\n  File "{}", line {}, in <module>\n    {}\n{}: '
    assert text.count("Traceback") == 3
    assert text.count(place.format(tmp_path / "train.py", 4, "raise ValueError(rank)", "ValueError")) == 2
    assert text.count(place.format(tmp_path / "train.py", 5, "open('/no such file')", "FileNotFoundError")) == 1
    assert shown.index("[3] FileNotFoundError: ") < shown.index("[3] rank 3 (pid ")


def test_the_last_output_of_a_child_that_outlives_its_rank_is_shown(tmp_path: Path) -> None:
    # The child writes after it has seen that the rank is gone.
    code = (
        WAIT_FOR
        + """
import subprocess
child = "import os, time\\nwhile os.getppid() == %d: time.sleep(0.001)\\nprint('late')" % os.getpid()
subprocess.Popen([sys.executable, "-c", child])
"""
    )
    ran = meshlog(tmp_path, "run", "--", *PYTHON, code)
    assert ran.out == "[0] late\n"


def test_a_run_ends_without_a_busy_loop_if_a_worker_outlives_its_rank(tmp_path: Path) -> None:
    worker = (
        "import os, signal, sys, meshlog_handler; meshlog_handler.install(); "
        "open(sys.argv[1], 'w').write(str(os.getpid())); signal.pause()"
    )
    start = f"import subprocess\nsubprocess.Popen([sys.executable, '-c', {worker!r}, sys.argv[1]])"
    code = f"{WAIT_FOR}\n{start}\nwait_for(sys.argv[1])"
    joined = tmp_path / "joined"
    ran = meshlog(tmp_path, "run", "--", *PYTHON, code, str(joined))
    assert (ran.out, ran.err) == ("", "")
    pid = int(joined.read_text())
    assert not gone(pid)
    os.kill(pid, signal.SIGKILL)


def test_the_end_of_a_killed_rank_is_reported_with_little_address_space(tmp_path: Path) -> None:
    code = "import logging, os, meshlog_handler; meshlog_handler.install(); logging.warning('logged'); os.kill(os.getpid(), 9)"
    command = " ".join(["ulimit -v 600000; exec", *MESHLOG, 'run -- "$0" -c "$1"'])
    done = run_command("sh", "-c", command, sys.executable, code, code=137)
    assert "[0] logged\n" in done.stderr
    assert "ended by SIGKILL" in done.stderr


def test_a_run_does_not_wait_for_a_daemon_that_outlives_its_rank(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "--", "sh", "-c", "sleep 50 & echo $!")
    pid = int(ran.out.removeprefix("[0] "))
    assert not gone(pid)
    os.kill(pid, signal.SIGKILL)


# How a run ends


def test_the_first_failure_heads_the_summary_and_gives_the_exit_code(tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = (
        WAIT_FOR
        + f"""
if rank == 2:
    print("my last words")
    sys.exit(5)
wait_for({str(go)!r})
raise RuntimeError("lost a peer")
"""
    )
    with running(tmp_path, "run", "-n", "4", "--grace", "60", "--", *PYTHON, code) as ran:
        ran.until("ended by exit code 5")
        go.touch()
        assert ran.wait() == 5
    summary = ran.err[ran.err.index("meshlog: ") :].splitlines()
    assert summary[0] == "meshlog: 4 of 4 ranks failed, rank 2 first:"
    assert re.fullmatch(r"    rank 2 \(pid \d+\): exit code 5 at [\d:.]+; its last lines:", summary[1])
    assert summary[2].strip() == "my last words"
    assert summary[3].strip() == "then:"
    assert re.fullmatch(r" +ranks 0-1,3: exit code 1, \d+\.\d s later: RuntimeError: lost a peer", summary[4]) or re.fullmatch(
        r" +ranks 0-1,3: exit code 1: RuntimeError: lost a peer", summary[4]
    )
    assert len(summary) == 5
    # The exit report appears when the rank ends, before the summary.
    assert ran.err.index("[2] rank 2 (pid") < ran.err.index("meshlog: 4 of 4")


def test_a_segmentation_fault_is_reported_with_the_last_lines(tmp_path: Path) -> None:
    code = """
import logging, os, signal, meshlog_handler
meshlog_handler.install()
if os.environ["RANK"] == "1":
    logging.info("about to crash")
    os.kill(os.getpid(), signal.SIGSEGV)
"""
    ran = meshlog(tmp_path, "run", "-n", "2", "--", *PYTHON, code, code=128 + signal.SIGSEGV)
    shown, _, summary = ran.err.partition("meshlog: ")
    assert "[1] about to crash\n" in shown
    assert "[1] Fatal Python error: Segmentation fault\n" in shown
    assert re.search(r"^\[1\] rank 1 \(pid \d+\) ended by SIGSEGV$", shown, re.MULTILINE)
    assert shown.rstrip().endswith("ended by SIGSEGV")
    assert summary.startswith("1 of 2 ranks failed")
    assert re.search(r"rank 1 \(pid \d+\): SIGSEGV at", summary)
    assert "INFO root: about to crash" in summary


def test_the_other_ranks_are_stopped_when_one_fails(tmp_path: Path) -> None:
    code = (
        WAIT_FOR
        + f"""
import signal
if rank == 0:
    wait_for({str(tmp_path / "1")!r})
    wait_for({str(tmp_path / "2")!r})
    sys.exit(3)
if rank == 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.path.join({str(tmp_path)!r}, str(rank)), "w").close()
while True: signal.pause()
"""
    )
    ran = meshlog(tmp_path, "run", "-n", "3", "--grace", "0.2", "--", *PYTHON, code, code=3)
    summary = ran.err[ran.err.index("meshlog: ") :]
    assert summary.startswith("meshlog: 1 of 3 ranks failed")
    assert "stopped rank 2: ended by SIGTERM" in summary
    assert "stopped rank 1: ended by SIGKILL" in summary


def test_a_child_of_a_failed_rank_is_stopped(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "--", "sh", "-c", "sleep 50 & echo $!; exit 4", code=4)
    pid = int(ran.out.removeprefix("[0] "))
    until(lambda: gone(pid), what="the end of what the rank left behind")


@pytest.mark.parametrize("install", ["", "import meshlog_handler; meshlog_handler.install()"], ids=["plain", "installed"])
@pytest.mark.parametrize("window", [(), ("--aggregate", "1")], ids=["at once", "grouped"])
def test_an_interrupt_shows_one_traceback(tmp_path: Path, install: str, window: tuple[str, ...]) -> None:
    code = f"{install}{PAUSE}"
    with running(tmp_path, "run", "-n", "4", "--log-dir", str(tmp_path / "logs"), *window, "--", *PYTHON, code) as ran:
        # Grouped lines are shown at the end of their window.
        ran.until("ready", 1 if window else 4)
        ran.process.send_signal(signal.SIGINT)
        assert ran.wait() == 130
    assert ran.err.count("Traceback") == 1
    assert ran.err.count("KeyboardInterrupt") == 2  # one traceback, and one line that says that the others are left out
    assert re.search(r"left out the same KeyboardInterrupt of ranks [0-3,-]+$", ran.err, re.MULTILINE)
    assert "meshlog: stopped by SIGINT\n    stopped ranks 0-3: ended by SIGINT\n" in ran.err
    for rank in range(4):
        assert "KeyboardInterrupt" in (tmp_path / "logs" / f"rank-{rank}.stderr").read_text()


def test_an_interrupt_from_a_terminal_reaches_each_rank_once(tmp_path: Path) -> None:
    """A terminal signals the whole process group of meshlog. The ranks are not in it: meshlog passes the signal on."""
    code = """
import signal, sys
count = 0
def interrupted(*_):
    global count
    count += 1
    print("interrupt", count)
signal.signal(signal.SIGINT, interrupted)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready")
while True: signal.pause()
"""
    out = (tmp_path / "out").open("wb")
    with (
        out,
        subprocess.Popen(
            [*MESHLOG, "run", "-n", "2", "--grace", "0.3", "--", *PYTHON, code],
            stdout=out,
            stderr=subprocess.DEVNULL,
            env=importing(),
            cwd=ROOT,
            start_new_session=True,
        ) as process,
    ):
        until(lambda: (tmp_path / "out").read_text().count("ready") == 2, DEADLINE)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE) == 130
    shown = (tmp_path / "out").read_text()
    assert sorted(re.findall(r"\[\d\] interrupt \d", shown)) == ["[0] interrupt 1", "[1] interrupt 1"]


@pytest.mark.parametrize(("ignored", "last"), [("SIGINT", "SIGTERM"), ("SIGINT, signal.SIGTERM", "SIGKILL")])
def test_ranks_that_ignore_a_stop_signal_get_the_next_stronger_one(tmp_path: Path, ignored: str, last: str) -> None:
    code = f"import signal\nfor each in (signal.{ignored},): signal.signal(each, signal.SIG_IGN){PAUSE}"
    with running(tmp_path, "run", "-n", "2", "--grace", "0.2", "--", *PYTHON, code) as ran:
        ran.until("ready", 2)
        ran.process.send_signal(signal.SIGINT)
        assert ran.wait() == 130
    assert f"stopped ranks 0-1: ended by {last}" in ran.err


def test_a_repeated_interrupt_does_not_wait_for_the_grace_period(tmp_path: Path) -> None:
    code = (
        "import signal\nsignal.signal(signal.SIGINT, lambda *_: print('no'))\n"
        f"signal.signal(signal.SIGTERM, lambda *_: print('never'))\n{PAUSE}"
    )
    with running(tmp_path, "run", "-n", "2", "--grace", "1000", "--", *PYTHON, code) as ran:
        for answer in ("ready", "no", "never"):
            ran.until(answer, 2)
            ran.process.send_signal(signal.SIGINT)
        assert ran.wait() == 130
    assert "stopped ranks 0-1: ended by SIGKILL" in ran.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_meshlog_stops_all_ranks(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, "run", "-n", "2", "--", *PYTHON, PAUSE) as ran:
        ran.until("ready", 2)
        ran.process.send_signal(number)
        assert ran.wait() == 128 + number
    assert ran.err == f"meshlog: stopped by {number.name}\n    stopped ranks 0-1: ended by {number.name}\n"


def test_ranks_that_print_end_when_meshlog_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, time\nprint('pid', os.getpid(), os.environ['MESHLOG_ADDRESS'])\n"
        "while True:\n    print('more')\n    time.sleep(0.01)"
    )
    with running(tmp_path, "run", "-n", "2", "--", *PYTHON, code) as ran:
        ran.until("pid", 2)
        ran.until("more", 8)
        found = re.findall(r"pid (\d+) (\S+)", ran.out)
        ran.process.kill()
        ran.process.wait()
        with kept(os.path.dirname(Address.parse(found[0][1]).path)):
            until(lambda: all(gone(int(pid)) for pid, _ in found), what="the end of the ranks")


# One write call a line, because the children of a rank share its pipe.
LIVES = "import os, signal\nos.write(1, b'pid %d\\n' % os.getpid())\nwhile True: signal.pause()"


@pytest.mark.parametrize(
    ("grace", "command", "count"),
    [
        ("5", [*PYTHON, LIVES], 2),
        # The shell and also its children must end.
        ("5", ["sh", "-c", f'{sys.executable} -c "$0" & {sys.executable} -c "$0"; wait', LIVES], 4),
        ("0.2", [*PYTHON, f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{LIVES}"], 2),
    ],
    ids=["silent", "with children", "deaf to SIGTERM"],
)
def test_ranks_end_when_meshlog_is_killed(grace: str, command: list[str], count: int, tmp_path: Path) -> None:
    with running(tmp_path, "run", "-n", "2", "--grace", grace, "--", *command) as ran:
        ran.until("pid", count)
        ran.process.kill()
        ran.process.wait()
        pids = [int(pid) for pid in re.findall(r"pid (\d+)", ran.out)]
        assert len(pids) == count
        until(lambda: all(map(gone, pids)), DEADLINE, "the end of the ranks")
    clean(base())


def test_a_daemon_of_a_rank_survives_when_meshlog_is_killed(tmp_path: Path) -> None:
    daemon = f"import os\nos.setsid()\n{LIVES}"
    command = f'{sys.executable} -c "$0" & echo rank $$; sleep 1000'
    with running(tmp_path, "run", "--", "sh", "-c", command, daemon) as ran:
        ran.until("pid")
        ran.until("rank")
        ran.process.kill()
        rank, pid = (int(re.findall(rf"{name} (\d+)", ran.out)[0]) for name in ("rank", "pid"))
        until(lambda: gone(rank), DEADLINE, "the end of the rank")
        assert not gone(pid)
        os.kill(pid, signal.SIGKILL)
    clean(base())


def test_a_child_of_a_successful_rank_keeps_running(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "--", "sh", "-c", "sleep 1000 > /dev/null 2>&1 & echo $!")
    pid = int(ran.out.removeprefix("[0] "))
    assert not gone(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_reader_that_reads_nothing_does_not_delay_a_stop(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"""
import os
for count in range(10 ** 9):
    os.write(1, b"x" * 9999 + b"\\n")
    if count == 16:
        open({str(pid_file)!r}, "w").write(str(os.getpid()))
"""
    with subprocess.Popen(
        [*MESHLOG, "run", "--", *PYTHON, code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=importing(), cwd=ROOT
    ) as process:
        # The rank wrote more than the pipe to this test holds: some of it cannot be shown.
        until(lambda: pid_file.exists() and pid_file.read_text(), DEADLINE)
        process.send_signal(signal.SIGINT)
        until(lambda: gone(int(pid_file.read_text())), DEADLINE)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
    clean(base())


def test_a_run_succeeds_if_the_reader_closes_the_pipe_early(tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = f"for number in range(20000): print(number)\nopen({str(done)!r}, 'w').close()"
    with subprocess.Popen(
        [*MESHLOG, "run", "--", *PYTHON, code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=importing(), cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"[0] 0\n"
        process.stdout.close()
        assert process.wait(DEADLINE) == 0
        assert process.stderr.read() == b""
    assert done.exists()


def test_a_pipe_that_another_process_made_non_blocking_gets_every_line(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    command = [*MESHLOG, "run", "-n", "2", "--", "seq", "6000"]
    with (
        os.fdopen(read_end, "rb") as reader,
        subprocess.Popen(command, stdout=write_end, stderr=subprocess.PIPE, env=importing(), cwd=ROOT) as process,
    ):
        until(lambda: not takes_more(write_end, 0), DEADLINE, "the pipe to be full")
        os.close(write_end)
        lines = reader.read().split()
        assert process.wait(DEADLINE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert len(lines) == 2 * 2 * 6000


def test_ranks_that_write_forever_end_when_the_reader_closes_the_pipe(tmp_path: Path) -> None:
    command = " ".join([*MESHLOG, "run -n 2 -- yes | head -1; echo ${PIPESTATUS[0]}"])
    done = run_command("bash", "-c", command)
    line, code = done.stdout.splitlines()
    assert (line[4:], int(code)) == ("y", 128 + signal.SIGPIPE)
    assert "stopped by SIGPIPE" in done.stderr


def test_ranks_stop_and_continue_together_with_meshlog(tmp_path: Path) -> None:
    """At Ctrl-Z a terminal sends SIGTSTP to meshlog alone: each rank is in another session."""
    with running(tmp_path, "run", "-n", "2", "--", *PYTHON, LIVES) as ran:
        ran.until("pid", 2)
        pids = [int(pid) for pid in re.findall(r"pid (\d+)", ran.out)]
        for _ in range(2):
            ran.process.send_signal(signal.SIGTSTP)
            for pid in (*pids, ran.process.pid):
                wait_stopped(pid)
            ran.process.send_signal(signal.SIGCONT)
            until(lambda: all(state_of(pid) != "T" for pid in pids), DEADLINE, "the ranks to go on")
        ran.process.send_signal(signal.SIGTERM)
        assert ran.wait() == 128 + signal.SIGTERM


def test_a_filter_that_names_missing_ranks_is_reported(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "-n", "2", "--ranks-filter", "1,9", "--", "sh", "-c", "echo $RANK")
    assert ran.out == "[1] 1\n"
    assert ran.err == "meshlog: --ranks-filter names rank 9, but this run has only ranks 0-1\n"


# Commands that cannot run


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "-n", "2", "--", "no-such-program"], 127, "no-such-program: command not found"),
        (["run", "-n", "2", "--", "setup.cfg"], 126, "setup.cfg is not executable"),
        (["run", "-n", "2", "--", "tests/waiting.py"], 126, "meshlog run -n 4 -- python tests/waiting.py"),
        (["run", "-n", "2", "--", "tests"], 126, "is a directory"),
        (["run", "-n", "2"], 2, "there is no command"),
        (["run", "-n", "none", "--", "true"], 2, "'none' is not a whole number of 1 or more"),
        (["run", "--aggregate", "0", "--", "true"], 2, "a window of 0 seconds groups nothing"),
        (["run", "--hang-after", "0", "--", "true"], 2, "argument --hang-after: expected more than 0 seconds"),
        (["top", "--interval", "0"], 2, "argument --interval: expected more than 0 seconds"),
        (["level", "INFO", "--for", "0"], 2, "argument --for: expected more than 0 seconds"),
        (["run", "--level", "LOUD", "--", "true"], 2, "Valid: 0 to 255"),
        (["run", "--ranks-filter", "3-1", "--", "true"], 2, "Write the lower first"),
        (["run", "--prefix", "{rang}", "--", "true"], 2, "rank"),
        (["run", "--never", "(", "--", "true"], 2, "is not a regular expression"),
        (["run", "--grace", "-1", "--", "true"], 2, "is not a number of seconds"),
        (
            ["run", "--log-dir", "/proc/none", "--", "true"],
            2,
            "--log-dir='/proc/none' cannot be used: No such file or directory",
        ),
        (["run", "--log-dir", "", "--", "true"], 2, "argument --log-dir: '' is not a directory"),
        (["run", "--on-hang", "kill", "--", "true"], 2, "--on-hang kill has no effect without --hang-after"),
        (["run", "--progress-from", "cpu", "--", "true"], 2, "--progress-from cpu has no effect without --hang-after"),
        (["run", "--frobnicate", "--", "true"], 2, "true|frobnicate"),
        (["run", "--agregate", "3", "--", "true"], 2, "did you mean --aggregate? (see meshlog run --help)"),
        (["exec", "--agregate=3", "--", "true"], 2, "did you mean --aggregate? (see meshlog exec --help)"),
        (["tail", "--row", "0", "."], 2, "unknown arguments: --row (see meshlog tail --help)"),
        ([], 2, "no command given. Expected run, exec, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_usage_error_is_one_line_and_starts_nothing(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    ran = meshlog(tmp_path, *words, code=code)
    assert ran.err.startswith("meshlog: error: ")
    assert ran.err.count("\n") == 1
    assert re.search(said, ran.err) or said in ran.err
    assert ran.out == ""


def test_the_error_for_an_unusable_run_directory_names_its_variable(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "--", "true", code=2, env={"MESHLOG_RUN_DIR": "/proc/none"})
    assert "MESHLOG_RUN_DIR='/proc/none' cannot be used: there is no such directory. Valid: " in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "exec"])
def test_a_file_in_the_path_that_is_not_executable_is_not_reported_as_missing(tmp_path: Path, command: str) -> None:
    (tmp_path / "compute").write_text("#!/bin/sh\n")
    ran = meshlog(tmp_path, command, "--", "compute", code=126, env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "RANK": "0"})
    assert ran.err.startswith(f"meshlog: error: {tmp_path}/compute is not executable. ")


@pytest.mark.skipif(os.getuid() == 0, reason="root may enter any directory")
def test_a_program_in_a_forbidden_directory_is_not_reported_as_missing(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    for words in (["run", "--", str(closed / "python")], ["run", "--", "pyth0n"]):
        ran = meshlog(tmp_path, *words, code=126, env={"PATH": f"{closed}:{os.environ['PATH']}"})
        assert f"{closed}/{os.path.basename(words[-1])}: permission denied" in ran.err
    closed.chmod(0o700)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("full", ["1", "2", "1 2"])
def test_the_exit_code_is_that_of_the_rank_even_if_the_output_cannot_be_written(full: str, unbuffered: str) -> None:
    streams = " ".join(f"{fd}>/dev/full" for fd in full.split())
    command = " ".join([*MESHLOG, "run -n 2 -- sh -c 'echo out; echo err >&2; exit 77'", streams])
    done = run_command("sh", "-c", command, env={**os.environ, "PYTHONUNBUFFERED": unbuffered}, code=77)
    assert "Traceback" not in done.stderr
    run_command("sh", "-c", command.replace("/dev/full", "&-"), code=77)


def test_the_help_shows_examples(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "--help")
    assert "examples:" in ran.out
    assert "-- python train.py" in ran.out
    assert meshlog(tmp_path, "--version").out.startswith("meshlog ")


def test_the_error_for_a_script_without_an_interpreter_names_the_rank(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    ran = meshlog(tmp_path, "run", "-n", "2", "--", str(script), code=127)
    assert ran.err.startswith("meshlog: error: rank 0 cannot be started")
    assert ran.err.count("\n") == 1


def test_options_after_the_command_belong_to_the_command(tmp_path: Path) -> None:
    assert meshlog(tmp_path, "run", "--", "echo", "--json", "--", "-n").out == "[0] --json -- -n\n"
    assert meshlog(tmp_path, "run", "-n", "1", "echo", "--json", "--", "-n").out == "[0] --json -- -n\n"
