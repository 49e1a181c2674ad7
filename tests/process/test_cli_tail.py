"""``meshlog tail``: the last records of every rank, of running and of dead runs, from files that may be corrupt."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from meshlog_handler.cli.view.tail import merged, print_tails, read_tails
from meshlog_handler.transport.channel import Address
from tests.process.command_line import PYTHON, WAIT_FOR, kept, meshlog, running
from tests.waiting import until

LOG = (
    WAIT_FOR
    + """
import logging, meshlog_handler
meshlog_handler.install()
log = logging.getLogger("train")
for number in range(100): log.info("number %d", number, extra={"half": number / 2})
try: 1 / 0
except ZeroDivisionError: log.exception("bad %s", "x" * 300_000 if rank == 1 else "")
"""
)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log directory of a run of three ranks that has ended; one rank was killed."""
    directory = tmp_path_factory.mktemp("run")
    code = LOG + "log.info('over')\nif rank == 2: os.kill(os.getpid(), 9)"
    options = ("--log-dir", str(directory / "logs"), "--grace", "60")
    meshlog(directory, "run", "-n", "3", *options, "--", *PYTHON, code, code=137)
    yield directory / "logs"
    shutil.rmtree(directory)


def ignore(complaint: str) -> None:
    """Ignore a complaint about unreadable entries: the journal is being written."""


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and modification time of each file of a directory."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def test_tail_shows_the_last_records_of_every_rank_in_order_of_time(logs: Path, tmp_path: Path) -> None:
    before = contents(logs)
    ran = meshlog(tmp_path, "tail", str(logs), "-n", "3")
    assert ran.err == ""
    lines = ran.out.splitlines()
    for rank in range(3):
        mine = [line for line in lines if line.startswith(f"[{rank}] ")]
        assert mine[0].endswith("INFO train: number 99")
        assert "ERROR train: bad" in mine[1]
        assert mine[-2] == f"[{rank}] ZeroDivisionError: division by zero"
        assert mine[-1].endswith("INFO train: over")
    times = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", ran.out)
    assert len(times) == 9
    assert times == sorted(times)
    assert contents(logs) == before


def test_tail_shows_selected_ranks_as_json(logs: Path, tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "tail", "--json", "-n", "2", "--rank", "0,2-5", str(logs))
    shown = [json.loads(line) for line in ran.out.splitlines()]
    assert sorted((each["rank"], each["level"], each["message"]) for each in shown) == [
        (0, "ERROR", "bad "),
        (0, "INFO", "over"),
        (2, "ERROR", "bad "),
        (2, "INFO", "over"),
    ]
    assert all("ZeroDivisionError" in each["exc_text"] for each in shown if each["level"] == "ERROR")


def test_tail_reads_all_records_of_a_rank(logs: Path) -> None:
    tails = read_tails(str(logs), 1000, frozenset((1,)), pytest.fail)
    assert [tail.rank for tail in tails] == [1]
    texts = [template.text(values) for _, template, values in merged(tails)]
    assert texts == [*(f"number {number}" for number in range(100)), f"bad {'x' * 300_000}", "over"]


def test_tail_reads_a_run_that_is_still_running(tmp_path: Path) -> None:
    code = LOG + f"print('ready')\nopen('{tmp_path}/' + str(rank), 'w').close()\nwait_for('{tmp_path}/go')\nlog.info('over')"
    with running(tmp_path, "run", "-n", "2", "--log-dir", str(tmp_path / "logs"), "--", *PYTHON, code) as ran:
        until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists(), 60)
        seen = tmp_path / "seen"
        seen.mkdir()
        shown = meshlog(seen, "tail", str(tmp_path / "logs"), "-n", "5").out
        (tmp_path / "go").touch()
        assert ran.wait() == 0
    for rank in range(2):
        assert re.search(rf"^\[{rank}\] .* INFO train: number 99$", shown, re.MULTILINE)
    assert "over" not in shown


def test_tail_reads_a_journal_while_it_is_written(tmp_path: Path) -> None:
    code = LOG + f"print('ready')\nwhile not os.path.exists('{tmp_path}/go'): log.info('more %d of %s', 1, 'them')"
    options = ("--log-dir", str(tmp_path / "logs"), "--ranks-filter", "9")
    with running(tmp_path, "run", "-n", "1", *options, "--", *PYTHON, code, env={"MESHLOG_JOURNAL_SIZE": "65536"}) as ran:
        until(lambda: any((tmp_path / "logs").glob("*.journal")), 60)
        until(lambda: read_tails(str(tmp_path / "logs"), 5, None, ignore)[0].items, 60)
        for _ in range(100):
            tails = read_tails(str(tmp_path / "logs"), 1000, None, ignore)
            for _, template, values in merged(tails):
                assert template.build(values).getMessage()
        (tmp_path / "go").touch()
        assert ran.wait() == 0


def test_tail_reads_the_journals_of_a_run_whose_client_was_killed(tmp_path: Path) -> None:
    """The ranks get SIGTERM then, and may log more during the grace period."""
    code = (
        LOG
        + f"""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("mine", os.environ["MESHLOG_ADDRESS"])
wait_for("{tmp_path}/go")
for number in range(30): log.info("alone %d", number)
open("{tmp_path}/said", "w").close()
wait_for("{tmp_path}/end")
"""
    )
    with running(tmp_path, "run", "--grace", "60", "--", *PYTHON, code) as ran:
        ran.until("mine")
        ran.process.send_signal(signal.SIGKILL)
        ran.process.wait()
    run_dir = os.path.dirname(Address.parse(ran.out.rpartition("mine ")[2].strip()).path)
    with kept(run_dir):
        (tmp_path / "go").touch()
        until((tmp_path / "said").exists, 60)
        seen = tmp_path / "seen"
        seen.mkdir()
        shown = meshlog(seen, "tail", run_dir, "-n", "1000").out
        assert f"mine {run_dir}" not in shown
        assert [line.rpartition(": ")[2] for line in shown.splitlines() if "alone" in line] == [f"alone {n}" for n in range(30)]
        (tmp_path / "end").touch()


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=st.data())
def test_corrupt_journals_do_not_break_tail(
    data: st.DataObject, logs: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = next(logs.glob("*rank0.journal")).read_bytes()
    torn = bytearray(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    for _ in range(data.draw(st.integers(0, 20))):
        # The entries are at the beginning of the file; zeros follow them.
        at = data.draw(st.integers(0, 20_000) | st.integers(0, len(whole)))
        torn[at : at + 1] = data.draw(st.binary(min_size=1, max_size=8))
    directory = tmp_path_factory.mktemp("torn")
    (directory / "1-0-rank0.journal").write_bytes(torn)
    # Not only zeros: such a journal counts as just being created.
    (directory / "2-1-rank.journal").write_bytes(data.draw(st.binary(max_size=64).filter(any)))
    complaints: list[str] = []
    for as_json in (False, True):
        print_tails(str(directory), 50, None, as_json, complaints.append)
    assert complaints  # at least one, about the second file
    for line in capsys.readouterr().out.splitlines():
        assert line
    shutil.rmtree(directory)


def test_tail_skips_and_reports_journals_that_cannot_be_read(logs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(logs, directory)
    os.mkfifo(directory / "7-7-rank7.journal")
    (directory / "8-8-rank8.journal").mkdir()
    (directory / "other.journal").write_text("mine")
    for side_file in directory.glob("*.journal.*"):
        side_file.unlink()
    ran = meshlog(tmp_path, "tail", str(directory), "-n", "2")
    assert ran.out.count("INFO train: over") == 3
    assert "7-7-rank7.journal cannot be read: it is not a regular file" in ran.err
    assert "8-8-rank8.journal cannot be read" in ran.err
    assert "too large for the journal, and its side file is missing" in ran.out + ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tail", "/no/such/place"], "/no/such/place: No such file or directory"),
        (["tail", "{empty}"], "no journals in"),
        (["tail", "{logs}", "--rank", "9"], "Found journals of ranks 0-2"),
        (["tail", "{logs}", "--rank", "x"], "does not name ranks"),
        (["tail", "{logs}", "-n", "0"], "'0' is not a whole number of 1 or more"),
        (["tail"], "DIR"),
        (["tail", "{logs}", "--", "x"], "unexpected argument 'x'"),
    ],
)
def test_a_usage_error_is_one_line(logs: Path, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    ran = meshlog(tmp_path, *(word.format(logs=logs, empty=tmp_path / "empty") for word in words), code=2)
    assert ran.err.startswith("meshlog: error: ")
    assert ran.err.count("\n") == 1
    assert said in ran.err
    assert ran.out == ""
