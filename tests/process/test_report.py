"""``meshlog report``: the page of a log directory, of a run that lives or is over; and the page itself, in a browser."""

from __future__ import annotations

import concurrent.futures
import gzip
import json
import logging
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler.cli.page.events import CLIENT, Event
from meshlog_handler.cli.page.model import PageModel
from meshlog_handler.cli.page.read_dir import LogDirectory
from meshlog_handler.cli.page.render import render
from meshlog_handler.cli.page.report import write_report
from meshlog_handler.insight.observation import Observation
from meshlog_handler.insight.report import insight_of
from tests.process.browser import CHROMIUM, Browser
from tests.process.command_line import PYTHON, WAIT_FOR, meshlog

JOB = (
    WAIT_FOR
    + """
import logging, meshlog_handler
meshlog_handler.install()
log = logging.getLogger("train")
log.info("</script><script>document.title = 'attacked'</script> \\u202e \\x1b[31m")
for step in range(20): log.info("step %d loss=%.2f", step, step / 10)
print("printed by", rank, flush=True)
if rank == 1:
    log.warning("slow batch")
    raise RuntimeError("out of memory")
"""
)


def data_of(path: Path) -> dict[str, Any]:
    text = path.read_text()
    found: dict[str, Any] = json.loads(
        text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    )
    return found


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log directory of a run of three ranks, of which one has failed."""
    directory = tmp_path_factory.mktemp("run")
    meshlog(directory, "run", "-n", "3", "--log-dir", str(directory / "logs"), "--", *PYTHON, JOB, code=1)
    return directory / "logs"


def test_the_report_of_a_run_that_failed(logs: Path, tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "report", str(logs), "-o", str(tmp_path / "report.html"))
    assert "3 ranks" in ran.err
    data = data_of(tmp_path / "report.html")
    assert data["ranks"] == [0, 1, 2]
    assert data["states"] == ["ended", "dead", "ended"]
    assert [(each["text"], each["rank"]) for each in data["failures"]] == [("RuntimeError: out of memory", 1)]
    texts = data["texts"]
    lines = [(data["ranks"][line[1]], texts[line[4]]) for line in data["lines"]]
    assert sum("step" in text for _, text in lines) == 60
    assert {rank for rank, text in lines if text.startswith("printed by")} == {0, 1, 2}
    (steps,) = [each for each in data["groups"] if each["text"].startswith("step")]
    assert (steps["text"], steps["ranks"], steps["count"]) == ("step 0..19 loss=0.00..1.90", "0-2", 60)


def test_an_error_of_the_command_names_its_cause(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "Name the --log-dir of a run" in meshlog(tmp_path, "report", str(tmp_path / "empty"), code=2).err
    assert "No such file" in meshlog(tmp_path, "report", str(tmp_path / "absent"), code=2).err
    (tmp_path / "rank-0.log").write_text("")
    assert "No such file" in meshlog(tmp_path, "report", str(tmp_path), "-o", str(tmp_path / "no" / "x.html"), code=1).err


def write(directory: Path, name: str, *lines: str) -> None:
    (directory / name).write_text("".join(f"{line}\n" for line in lines))


def events_of(directory: Path) -> list[tuple[int, int, str, str]]:
    complaints: list[str] = []
    source = LogDirectory(str(directory), complaints.append)
    assert complaints == []
    return [(event.rank, event.level, event.source, event.text) for rank in source.ranks for event in source.events(rank)]


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "rank-0.log").write_text("2026-01-01 00:00:01,000 INFO app: first\n")
    path = tmp_path / "report.html"
    path.write_text("earlier")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as failure:
            write_report(str(tmp_path), str(path), pytest.fail)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failure.value.filename == str(path)
    assert path.read_text() == "earlier"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rank-0.log", "report.html"]


def test_a_report_to_a_device_or_through_a_link_replaces_neither(tmp_path: Path) -> None:
    (tmp_path / "rank-0.log").write_text("2026-01-01 00:00:01,000 INFO app: first\n")
    written, link, pipe = tmp_path / "written.html", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(written)
    write_report(str(tmp_path), str(link), pytest.fail)
    assert link.is_symlink()
    page = written.read_bytes()
    os.mkfifo(pipe)
    with concurrent.futures.ThreadPoolExecutor(1) as reading:
        read = reading.submit(pipe.read_bytes)
        write_report(str(tmp_path), str(pipe), pytest.fail)
        assert read.result(30) == page
    with pytest.raises(OSError, match="No space left on device"):
        write_report(str(tmp_path), "/dev/full", pytest.fail)
    assert not Path("/dev/full.part").exists()


def test_a_dash_is_stdout(tmp_path: Path) -> None:
    (tmp_path / "rank-0.log").write_text("2026-01-01 00:00:01,000 INFO app: first\n")
    ran = meshlog(tmp_path, "report", str(tmp_path), "-o", "-")
    assert ran.out.startswith("<!doctype html>")
    assert "first" in ran.out
    assert ran.err.startswith("meshlog: stdout: 1 rank, 1 records and lines, ")
    assert [each for each in (Path("-"), tmp_path / "-") if each.exists()] == []


def test_rotated_files_text_json_and_tracebacks(tmp_path: Path) -> None:
    write(tmp_path, "rank-0.log.2", "2026-01-01 00:00:01,000 INFO a: first")
    write(
        tmp_path,
        "rank-0.log.1",
        "2026-01-01 00:00:02,000 WARNING a: second",
        "Traceback (most recent call last):",
        "ValueError: x",
    )
    write(tmp_path, "rank-0.log", "2026-01-01 00:00:03,500 Level 33 a.b: third")
    write(tmp_path, "rank-0.2.log", "2026-01-01 00:00:04,000 INFO a: of another client")
    entry = {"timestamp": "2026-01-01T00:00:05.000001Z", "level": "ERROR", "name": "j", "message": "json", "exc_text": "trace"}
    write(tmp_path, "rank-7.log", json.dumps(entry), "{not json", "2026-99-99 00:00:00,000 INFO a: no date")
    write(tmp_path, "client.log", "2026-01-01 00:00:01,000 INFO c: of the client")
    write(tmp_path, "rank-x.log", "another program's")
    assert events_of(tmp_path) == [
        (-1, 20, "c", "of the client"),
        (0, 20, "a", "first"),
        (0, 30, "a", "second\nTraceback (most recent call last):\nValueError: x"),
        (0, 33, "a.b", "third"),
        (0, 20, "a", "of another client"),
        (7, 40, "j", "json\ntrace\n{not json\n2026-99-99 00:00:00,000 INFO a: no date"),
    ]


def test_printed_lines_have_estimated_times_in_their_order(tmp_path: Path) -> None:
    now = time.time()
    write(tmp_path, "rank-0.stdout", *(f"line {number}" for number in range(100)))
    os.utime(tmp_path / "rank-0.stdout", (now + 60, now + 60))
    source = LogDirectory(str(tmp_path), pytest.fail)
    found = list(source.events(0))
    assert [event.text for event in found] == [f"line {number}" for number in range(100)]
    whens = [event.time for event in found]
    assert whens == sorted(whens)
    assert whens[-1] == pytest.approx(now + 60, abs=1)
    assert source.estimated == 100


def test_a_report_of_odd_files_is_written_and_names_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "rank-0.stdout").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "rank-1.log").write_bytes(b"{" * 100_000 + b"\n")
    (tmp_path / "rank-2.log").mkdir()
    (tmp_path / "rank-3.log").write_bytes(b"2026-01-01 00:00:01,000 INFO a: " + b"x" * (1 << 20))
    (tmp_path / "1-2-rank4.journal").write_bytes(b"no journal")
    complaints: list[str] = []
    write_report(str(tmp_path), str(tmp_path / "report.html"), complaints.append)
    assert len(complaints) == 1
    assert (tmp_path / "report.html").stat().st_size < 500_000


def test_what_the_files_lack_is_read_from_the_journals(logs: Path, tmp_path: Path) -> None:
    shutil.copytree(logs, tmp_path / "logs")
    file = tmp_path / "logs" / "rank-0.log"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:9]))
    texts = [text for rank, _, source, text in events_of(tmp_path / "logs") if rank == 0 and source == "train"]
    assert sorted(text.split()[1] for text in texts if text.startswith("step")) == sorted(map(str, range(20)))


# -- in a browser ------------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(str(logs), str(path), pytest.fail)
    with Browser() as it:
        it.open(path.as_uri())
        it.until("document.querySelectorAll('#lines .row').length > 0")
        yield it


ROWS = "[...document.querySelectorAll('#lines .row')].map((row) => row.innerText)"
RANKS = "[...new Set([...document.querySelectorAll('#lines .row .r')].map((cell) => cell.innerText))].sort().join()"
CLEARED = "!/ of [0-9,]+ line/.test(document.querySelector('#lines-note').textContent)"


@needs_browser
def test_what_was_logged_is_text_and_no_script_runs(browser: Browser) -> None:
    assert "attacked" not in browser.run("document.title")
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert any("</script>" in row and "\\u202e" in row for row in browser.run(ROWS))
    assert browser.errors() == []
    assert "out of memory" in browser.run("document.querySelector('.failure').innerText")


@needs_browser
def test_clicks_filters_and_keys(browser: Browser) -> None:
    key, run = browser.key, browser.run
    box = run("(({left, top}) => [left, top])(document.querySelector('#map').getBoundingClientRect())")
    browser.click(box[0] + 200, box[1] + 27)  # the second of three rows
    browser.until(f"{RANKS} === '1'")
    assert "rank 1" in run("document.querySelector('#rank').innerText")
    key("Escape")
    browser.until(CLEARED)
    key("/")
    browser.type("SLOW")
    browser.until(f"{ROWS}.length === 1")
    assert run("document.querySelector('mark').textContent") == "slow"
    key("Escape")
    key("r")
    browser.type("0,2")
    browser.until(f"{RANKS} === '0,2'")
    run("document.activeElement.blur()")
    key("Escape")
    for _ in range(2):
        key("l")
    browser.until(f"{ROWS}.every((row) => /WARNING|ERROR/.test(row))")
    key("Escape")
    run("document.querySelector('#groups tbody tr:last-child').click()")
    browser.until(f"!({CLEARED})")
    key("Escape")
    key("f")  # the first failure, with its time and rank
    browser.until(f"{RANKS} === '1'")
    key("n")
    browser.until("document.querySelector('#detail').innerText.includes('RuntimeError')")
    key("Escape")
    browser.click(box[0] + 100, box[1] + 5, to=(box[0] + 400, box[1] + 6))
    browser.until("document.querySelector('#f-time').value !== ''")
    key("Escape")
    key("/")
    browser.type("/[/")
    browser.until("document.querySelector('#f-text').className === 'bad'")
    key("Escape")
    theme = run("document.documentElement.dataset.theme")
    key("t")
    browser.until(f"document.documentElement.dataset.theme !== '{theme}'")
    assert browser.errors() == []


@needs_browser
def test_a_silent_rank_is_seen_among_a_thousand_and_a_report_opens_by_a_click(browser: Browser, tmp_path: Path) -> None:
    model, now = PageModel(), 1_700_000_100.0
    for rank in range(1000):
        for second in range(0, 100 if rank != 777 else 50, 4):
            model.add(Event(now - 100 + second, rank, 20, "train", f"step {second}"))
    model.add(Event(now, CLIENT, 40, "meshlog", "no progress for 5 s: rank 777\n    rank 777: silent for 50 s"))
    insight = insight_of(Observation(rank, silence=1.0 if rank != 777 else 50.0, longest=4.0) for rank in range(1000))
    (tmp_path / "page.html").write_text(render(model.to_dict(insight, {"title": "big", "now": now, "live": True})))
    browser.open((tmp_path / "page.html").as_uri())
    browser.until("document.querySelectorAll('#lines .row').length > 0")
    pale = browser.run(
        """(() => {
        const map = document.querySelector('#map'), scale = map.width / map.clientWidth;
        const late = Math.floor(scale * (52 + (map.clientWidth - 52) * 0.8));
        const column = map.getContext('2d').getImageData(late, 0, 1, scale * 520).data;
        const at = (row) => column.slice(4 * scale * row, 4 * scale * row + 4).join();
        return Array.from({ length: 520 }, (_, row) => row).filter((row) => at(row) !== at(100));
        })()"""
    )
    assert pale == [0, 404]  # the client, and rank 777
    browser.run("document.querySelector('.fact').click()")
    assert "rank 777: silent for 50 s" in browser.run("document.querySelector('#detail').innerText")
    assert browser.errors() == []


def test_compressed_files_and_any_name_of_a_level_are_read(tmp_path: Path) -> None:
    texts = {
        "rank-0.log.2.gz": b"2026-01-01 00:00:01,000 Success app: first\n  and its second line\n",
        "rank-0.log.1.gz.part": b"2026-01-01 00:00:02,000 too_low app: second\n",
        "rank-0.log": b"2026-01-01 00:00:03,000 Level 35 app: third\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    torn = gzip.compress(os.urandom(1000))[:500]
    (tmp_path / "rank-1.log.1.gz").write_bytes(torn)
    complaints: list[str] = []
    directory = LogDirectory(str(tmp_path), complaints.append)
    assert [(each.level, each.text) for each in directory.events(0)] == [
        (logging.INFO, "first\n  and its second line"),
        (logging.INFO, "second"),
        (35, "third"),
    ]
    assert list(directory.events(1)) == []
    assert complaints == [
        f"{tmp_path}/rank-1.log.1.gz cannot be read: Compressed file ended before the end-of-stream marker was reached"
    ]
