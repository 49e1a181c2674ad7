"""The logging of a mesh: streaming, levels, windows, flushes, configuration and exit reports."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import (
    ConfigRefused,
    FlushReceipt,
    FlushTimeout,
    ForwardingDisabledWarning,
    LoggingMeshClient,
    MeshFormatter,
    ProcMesh,
    RankDied,
    SettingError,
    current_rank,
    this_host,
)
from meshlog_handler.testing import RecordCollector
from tests.process.procs import DEADLINE, stop_process
from tests.waiting import until

METHODS = ("fork", "spawn", "forkserver")
WAIT = 30.0


def spawn(collector: logging.Handler, count: int, **options: Any) -> ProcMesh:
    """Spawn a mesh whose records are collected without grouping."""
    mesh = this_host().spawn_procs(per_host={"gpus": count}, handlers=[collector], **options)
    mesh.logging_option(aggregate_window_sec=None).get(WAIT)
    return mesh


def say(text: str, times: int = 1) -> None:
    for _ in range(times):
        print(text)


def fail_softly(text: str) -> None:
    logging.getLogger("app").error(text)


def log(level: int, text: str, name: str = "app") -> None:
    logging.getLogger(name).log(level, text)


@pytest.fixture
def collector() -> RecordCollector:
    return RecordCollector()


@pytest.mark.parametrize("method", METHODS)
def test_records_and_printed_lines_arrive_with_rank_and_stream(collector: RecordCollector, method: str) -> None:
    with spawn(collector, 2, start_method=method) as mesh:
        mesh.call(say, "printed").get(WAIT)
        mesh.call(log, logging.INFO, "logged").get(WAIT)
        mesh.flush().get(WAIT)
        got = sorted((r.rank, r.stream or "", r.getMessage(), r.coords["gpus"]) for r in collector.records)  # type: ignore[attr-defined]
    assert got == [(0, "", "logged", 0), (0, "stdout", "printed", 0), (1, "", "logged", 1), (1, "stdout", "printed", 1)]


def test_streaming_and_levels_decide_which_records_and_lines_are_shown(collector: RecordCollector) -> None:
    with spawn(collector, 2) as mesh:
        mesh.logging_option(stream_to_client=False).get(WAIT)
        mesh.call(say, "unheard").get(WAIT)
        mesh.call(fail_softly, "unheard").get(WAIT)
        mesh.flush().get(WAIT)
        assert collector.messages == []
        mesh.logging_option(stream_to_client=True, aggregate_window_sec=None, level=logging.FATAL).get(WAIT)
        mesh.call(say, "print at FATAL").get(WAIT)
        mesh.call(fail_softly, "error at FATAL").get(WAIT)
        mesh.flush().get(WAIT)
        assert collector.messages == ["print at FATAL"] * 2
        collector.clear()
        mesh.logging_option(aggregate_window_sec=None, level=logging.ERROR).get(WAIT)
        mesh.call(say, "print at ERROR").get(WAIT)
        mesh.call(fail_softly, "error at ERROR").get(WAIT)
        mesh.flush().get(WAIT)
        assert sorted(collector.messages) == ["error at ERROR"] * 2 + ["print at ERROR"] * 2


def test_switching_grouping_off_shows_pending_groups(collector: RecordCollector) -> None:
    with spawn(collector, 2) as mesh:
        mesh.logging_option(aggregate_window_sec=60.0).get(WAIT)
        mesh.call(say, "again", 5).get(WAIT)
        # All lines have arrived when ten are counted. A flush would show them.
        client = mesh.logging.client
        deadline = time.monotonic() + WAIT
        while sum(each.lines for each in client.stats().values()) < 10:
            assert time.monotonic() < deadline
        assert collector.messages == []
        mesh.logging_option(aggregate_window_sec=None).get(WAIT)
        assert collector.messages == ["[10 similar log lines] [ranks 0-1] again"]
        collector.clear()
        mesh.call(say, "again", 5).get(WAIT)
        mesh.flush().get(WAIT)
        assert collector.messages == ["again"] * 10


def test_setting_a_shorter_window_shows_pending_groups_and_applies_from_then_on(collector: RecordCollector) -> None:
    with spawn(collector, 2) as mesh:
        mesh.logging_option(aggregate_window_sec=100.0).get(WAIT)
        mesh.call(say, "slow", 3).get(WAIT)
        client = mesh.logging.client
        deadline = time.monotonic() + WAIT
        while sum(each.lines for each in client.stats().values()) < 6:
            assert time.monotonic() < deadline
        mesh.logging_option(aggregate_window_sec=2.0).get(WAIT)
        assert collector.messages == ["[6 similar log lines] [ranks 0-1] slow"]
        started = time.monotonic()
        mesh.call(say, "faster").get(WAIT)
        collector.wait_for(lambda records: len(records) == 2)
        assert 1.5 < time.monotonic() - started < 3.0
        assert collector.messages[1] == "[2 similar log lines] [ranks 0-1] faster"


def test_a_mesh_that_ends_right_after_a_call_shows_every_line_exactly_once() -> None:
    async def job(collector: RecordCollector) -> None:
        async with this_host().spawn_procs(per_host={"gpus": 2}, handlers=[collector]) as mesh:
            await mesh.logging_option(aggregate_window_sec=3.0)
            await mesh.call(say, "hello", 10)

    for _ in range(5):
        collector = RecordCollector()
        asyncio.run(job(collector))
        assert collector.messages == ["[20 similar log lines] [ranks 0-1] hello"]


def test_ten_concurrent_flushes_with_a_stopped_rank_all_time_out_and_name_it(collector: RecordCollector) -> None:
    with spawn(collector, 8) as mesh:
        client = mesh.logging
        pid = mesh.pids[5]
        stop_process(pid)
        outcomes: list[tuple[float, FlushTimeout]] = []

        def flush() -> None:
            started = time.monotonic()
            with pytest.raises(FlushTimeout) as caught:
                client.flush(timeout=2.0)
            outcomes.append((time.monotonic() - started, caught.value))

        try:
            threads = [threading.Thread(target=flush) for _ in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WAIT)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert len(outcomes) == 10
        assert all(2.0 <= elapsed < 2.5 and error.receipt.missing == (5,) for elapsed, error in outcomes)
        assert "rank 5" in str(outcomes[0][1])
        assert len({error.receipt.version for _, error in outcomes}) == 10
        assert client.flush(timeout=10.0).acked == tuple(range(8))


def test_a_flush_lists_a_dead_rank_and_an_exit_report_names_it(collector: RecordCollector) -> None:
    with spawn(collector, 3) as mesh:
        pid = mesh.pids[1]
        mesh.slice(ranks=[1]).call(log, logging.INFO, "last words").get(WAIT)
        os.kill(pid, signal.SIGKILL)
        receipt: FlushReceipt = mesh.flush(timeout=10).get(WAIT)
        records = collector.wait_for(lambda records: any("ended by" in r.getMessage() for r in records))
        assert mesh.flush().get(WAIT).dead == (1,)
    assert receipt.missing == ()
    assert set(receipt.acked) | set(receipt.dead) == {0, 1, 2}
    texts = [record.getMessage() for record in records]
    assert "last words" in texts
    death = next(record for record in records if "ended by" in record.getMessage())
    assert death.getMessage().startswith(f"rank 1 (pid {pid}) ended by SIGKILL")
    assert death.levelno == logging.ERROR


def test_levels_apply_to_selected_ranks_and_reset_automatically(collector: RecordCollector) -> None:
    with spawn(collector, 4) as mesh:
        mesh.logging.set_level("DEBUG", "pkg", ranks=[3])
        mesh.call(log, logging.DEBUG, "details", "pkg").get(WAIT)
        mesh.flush().get(WAIT)
        assert [record.rank for record in collector.records] == [3]  # type: ignore[attr-defined]
        mesh.logging.set_level("DEBUG", "brief", ranks=[1], for_sec=0.2)

        def level() -> int:
            return logging.getLogger("brief").level

        deadline = time.monotonic() + WAIT
        while mesh.call(level).get(WAIT)[1] != logging.NOTSET:
            assert time.monotonic() < deadline


def _fork_while_at(level: int) -> int | None:
    """Fork a child that logs and waits for its level to revert; return its status, or None if the level has reverted before."""
    logger = logging.getLogger("brief")
    pid = os.fork()
    if not pid:
        status = 3
        try:
            began_in_time = logger.level == level
            logger.warning("the child joins")
            deadline = time.monotonic() + WAIT
            while logger.level == level and time.monotonic() < deadline:
                time.sleep(0.01)
            status = (1 if logger.level == level else 0) if began_in_time else 2
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if status == 2 else status


def test_a_forked_child_of_a_rank_resets_its_level_too(collector: RecordCollector) -> None:
    with spawn(collector, 1) as mesh:
        status = None
        while status is None:
            mesh.logging.set_level("DEBUG", "brief", for_sec=1.0)
            status = mesh.call(_fork_while_at, logging.DEBUG).get(2 * WAIT)[0]
        assert status == 0


def root_state() -> tuple[int, list[str]]:
    root = logging.getLogger()
    return root.level, [type(handler).__name__ for handler in root.handlers]


# README, "What is guaranteed": A change is applied everywhere or nowhere.
def test_a_configuration_is_applied_on_all_ranks_or_on_none(collector: RecordCollector) -> None:
    with spawn(collector, 3) as mesh:
        before = mesh.call(root_state).get(WAIT)
        bad = {"version": 1, "root": {"level": "LOUD", "handlers": []}}
        with pytest.raises(ConfigRefused, match="every rank is as it was before") as caught:
            mesh.logging.configure(bad)
        assert caught.value.ranks == (0, 1, 2)
        assert "LOUD" in caught.value.reasons[1]
        assert mesh.call(root_state).get(WAIT) == before

        only_one_refuses = {
            "version": 1,
            "root": {"level": "DEBUG"},
            "handlers": {"file": {"class": "logging.FileHandler", "filename": "ext://meshlog_handler_test_target.name"}},
        }

        def prepare() -> None:
            import sys
            import types

            if current_rank() != 1:
                module = types.ModuleType("meshlog_handler_test_target")
                module.name = os.devnull  # type: ignore[attr-defined]
                sys.modules["meshlog_handler_test_target"] = module

        mesh.call(prepare).get(WAIT)
        with pytest.raises(ConfigRefused) as caught:
            mesh.logging.configure(only_one_refuses)
        assert caught.value.ranks == (1,)
        assert mesh.call(root_state).get(WAIT) == before

        mesh.logging.configure({"version": 1, "root": {"level": "ERROR"}})
        assert [state[0] for state in mesh.call(root_state).get(WAIT)] == [logging.ERROR] * 3
        mesh.call(fail_softly, "still forwarded").get(WAIT)
        mesh.flush().get(WAIT)
        assert collector.messages == ["still forwarded"] * 3


def test_undoing_one_configuration_does_not_undo_another(collector: RecordCollector, tmp_path: Path) -> None:
    """Rank 0 agrees at once and rank 1 refuses late. Undoing the change on rank 0 must not undo the later configuration."""
    began = tmp_path / "began"
    with spawn(collector, 2, start_method="fork") as mesh:
        refused = {"()": f"{__name__}.refuse_late", "on": 1, "began": str(began)}
        errors: list[Exception] = []

        def change() -> None:
            try:
                mesh.logging.configure({"version": 1, "handlers": {"h": refused}, "loggers": {"probe": {"level": 44}}})
            except ConfigRefused as refusal:
                errors.append(refusal)

        thread = threading.Thread(target=change)
        thread.start()
        until(began.exists, WAIT, "rank 1 to be about to refuse")
        mesh.logging.configure({"version": 1, "loggers": {"probe": {"level": 33}}})
        thread.join(WAIT)
        assert len(errors) == 1
        assert mesh.call(lambda: logging.getLogger("probe").level).get(WAIT) == [33, 33]


def refuse_late(on: int, began: str) -> logging.Handler:
    """Return a handler. On one rank, raise an error after a delay instead."""
    if current_rank() == on:
        Path(began).touch()
        time.sleep(0.3)  # the other change would be applied in this time if it did not wait
        raise RuntimeError("not here")
    return logging.NullHandler()


def test_a_configuration_with_objects_raises_an_error_before_it_is_sent(collector: RecordCollector) -> None:
    with spawn(collector, 1) as mesh, pytest.raises(TypeError, match="plain data only"):
        mesh.logging.configure({"version": 1, "handlers": {"x": {"()": lambda: None}}})


def test_invalid_options_raise_value_errors(collector: RecordCollector) -> None:
    with spawn(collector, 1) as mesh:
        for options in (
            {"stream_to_client": False, "aggregate_window_sec": 3},
            {"level": -1},
            {"level": 256},
            {"aggregate_window_sec": 0},
            {"aggregate_window_sec": -1.0},
        ):
            with pytest.raises(ValueError, match=r"Valid|Leave the window out"):
                mesh.logging_option(**options).get(WAIT)
        with pytest.raises(SettingError, match="rank 7"):
            mesh.logging.set_level("INFO", ranks=[7])


def test_without_forwarding_streaming_gives_a_warning_and_commands_still_work(
    collector: RecordCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHLOG_ENABLE_LOG_FORWARDING", "0")
    mesh = this_host().spawn_procs(per_host={"gpus": 2}, handlers=[collector], stream_log_to_client=False)
    with mesh:
        mesh.initialized.get(WAIT)
        with pytest.warns(ForwardingDisabledWarning, match="MESHLOG_ENABLE_LOG_FORWARDING=1"):
            mesh.logging.set_mode(True, None, logging.ERROR)
        assert [level for level, _ in mesh.call(root_state).get(WAIT)] == [logging.ERROR] * 2
        assert mesh.flush().get(WAIT).acked == (0, 1)
        assert collector.messages == []


def test_spawn_returns_the_logging_of_the_mesh_and_drain_and_stop_can_be_repeated(collector: RecordCollector) -> None:
    with spawn(collector, 2) as mesh:
        client = LoggingMeshClient.spawn(mesh)
        mesh.call(log, logging.WARNING, "hot").get(WAIT)
        receipt = client.flush()
        assert receipt.acked == (0, 1)
        stats = client.stats()
        assert {rank: each.received for rank, each in stats.items()} == {0: 1, 1: 1}
        assert stats[0]["last_seq"] == 1
    client.drain_and_stop()
    client.drain_and_stop()


def test_a_mesh_whose_logging_was_drained_stops_without_a_message(
    collector: RecordCollector, capfd: pytest.CaptureFixture[str]
) -> None:
    with spawn(collector, 1) as mesh:
        mesh.logging.drain_and_stop()
    assert capfd.readouterr().err == ""


def run_in_trio(job: Callable[[], Any]) -> Any:
    trio = pytest.importorskip("trio")
    return trio.run(job)


def test_a_mesh_shows_lines_when_it_is_used_from_trio(collector: RecordCollector) -> None:
    async def job() -> FlushReceipt:
        async with this_host().spawn_procs(per_host={"gpus": 2}, handlers=[collector]) as mesh:
            await mesh.logging_option(aggregate_window_sec=None)
            await mesh.call(say, "from trio")
            return await mesh.flush()

    assert run_in_trio(job).acked == (0, 1)
    assert collector.messages == ["from trio"] * 2


def test_a_flush_of_a_mesh_does_not_block_a_running_event_loop(collector: RecordCollector) -> None:
    async def job() -> int:
        ticks = 0
        async with this_host().spawn_procs(per_host={"gpus": 1}, handlers=[collector]) as mesh:
            await mesh.initialized
            stop_process(mesh.pids[0])
            flushing = asyncio.ensure_future(_await(mesh.flush(timeout=1.0)))
            try:
                while not flushing.done():
                    ticks += 1
                    await asyncio.sleep(0.01)
            finally:
                os.kill(mesh.pids[0], signal.SIGCONT)
            assert isinstance(flushing.exception(), FlushTimeout)
        return ticks

    assert asyncio.run(job()) > 20


async def _await(future: Any) -> Any:
    return await future


def explode(number: int) -> None:
    try:
        raise ValueError(f"bad number {number}")
    except ValueError:
        logging.getLogger("app").exception("cannot go on")


def test_a_traceback_stays_together_and_every_line_has_the_rank_prefix(collector: RecordCollector) -> None:
    with spawn(collector, 2) as mesh:
        mesh.call(explode, 3).get(WAIT)
        mesh.flush().get(WAIT)
        record = collector.of_rank(1)[0]
    text = MeshFormatter().format(record)
    lines = text.splitlines()
    assert all(line.startswith("[1] ") for line in lines)
    assert lines[0] == "[1] cannot go on"
    assert lines[-1] == "[1] ValueError: bad number 3"
    assert text.count("Traceback") == 1


def fail_alike() -> None:
    """Log the same exception on each rank, with the rank in its texts."""
    try:
        raise KeyError(f"shard {current_rank()}")
    except KeyError:
        logging.getLogger("train").exception("step failed on rank %d", current_rank())


def fail_otherwise() -> None:
    """Log exceptions from one call site; rank 2 logs another exception."""
    try:
        raise OSError("no disk") if current_rank() == 2 else KeyError("shard")
    except Exception:
        logging.getLogger("train").exception("step failed")


def test_similar_exceptions_are_grouped_by_their_signature(collector: RecordCollector) -> None:
    """The first is shown at once, with its traceback. Similar ones are counted, even if their texts differ; others are not."""
    with spawn(collector, 4) as mesh:
        mesh.logging_option(aggregate_window_sec=60).get(WAIT)
        mesh.call(fail_alike).get(WAIT)
        mesh.flush().get(WAIT)
        first, others = collector.records
        assert first.exc_text is not None
        assert first.exc_text.startswith("Traceback (most recent call last):")
        assert "KeyError" in first.exc_text
        assert vars(others)["count"] == 3
        assert {vars(first)["rank"], *vars(others)["ranks"]} == {0, 1, 2, 3}
        collector.clear()
        mesh.call(fail_otherwise).get(WAIT)
        mesh.flush().get(WAIT)
        counts = [(getattr(record, "count", 1), str(record.exc_text).rpartition("\n")[2]) for record in collector.records]
        assert sorted(count for count, _ in counts) == [1, 1, 2], counts
        assert [text for _, text in counts].count("OSError: no disk") == 1


def crash_after_logging(count: int) -> None:
    """Log some lines, then end with a segmentation fault, like faulty C code."""
    for number in range(count):
        logging.getLogger("train").info("line %d", number)
    os.kill(os.getpid(), signal.SIGSEGV)


def test_an_exit_report_has_the_last_twenty_lines_and_the_faulthandler_dump_is_shown(collector: RecordCollector) -> None:
    with spawn(collector, 2) as mesh:
        pid = mesh.pids[1]
        died = mesh.slice(ranks=[1]).call(crash_after_logging, 30)
        records = collector.wait_for(lambda records: any("ended by" in r.getMessage() for r in records), WAIT)
        assert isinstance(died.exception(WAIT), RankDied)
    death = next(record for record in records if "ended by" in record.getMessage())
    head, *lines = death.getMessage().splitlines()
    assert head == f"rank 1 (pid {pid}) ended by SIGSEGV; its last lines:"
    assert len(lines) == 20
    printed = [record.getMessage() for record in records if vars(record)["stream"] == "stderr"]
    assert "Fatal Python error: Segmentation fault" in printed
    assert any("crash_after_logging" in line for line in printed)
    assert "INFO train: line 29" in [line.strip() for line in lines]
    assert "line 29" in [record.getMessage() for record in records]


def log_three_kinds() -> None:
    """Log a line that is hidden, one that is never grouped, and one that is."""
    for text in ("a secret", "loss", "step"):
        logging.getLogger("kinds").info(text)


def test_variables_say_what_is_hidden_shown_at_once_and_how_files_are_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHLOG_HIDE", "secret|loss")
    monkeypatch.setenv("MESHLOG_AGGREGATE_FIRST_LEVEL", "INFO")
    for name, value in (("MAX_BYTES", "100"), ("BACKUP_COUNT", "9"), ("COMPRESS", "1")):
        monkeypatch.setenv(f"MESHLOG_LOG_DIR_{name}", value)
    shown = RecordCollector()
    options: Any = {"per_host": {"gpus": 1}, "handlers": [shown], "log_dir": tmp_path, "start_method": "fork"}
    with this_host().spawn_procs(**options) as procs:
        procs.logging_option(aggregate_window_sec=60).get(DEADLINE)
        for _ in range(3):
            procs.call(log_three_kinds).get(DEADLINE)
        procs.flush().get(DEADLINE)
    assert [record.getMessage() for record in shown.records] == ["step", "[2 similar log lines] [rank 0] step"]
    rotated = [gzip.decompress(path.read_bytes()) for path in sorted(tmp_path.glob("rank-0.log.*.gz"), reverse=True)]
    assert len(rotated) > 2
    written = b"".join([*rotated, (tmp_path / "rank-0.log").read_bytes()])
    assert [line.rpartition(b" ")[2] for line in written.splitlines()] == [b"secret", b"loss", b"step"] * 3


def test_lines_of_a_mesh_are_hidden_or_never_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLOG_NEVER", "lo.s")
    shown = RecordCollector()
    with this_host().spawn_procs(per_host={"gpus": 2}, handlers=[shown], hide=["secret"], start_method="fork") as procs:
        procs.call(log_three_kinds).get(DEADLINE)
        procs.flush().get(DEADLINE)
    assert sorted(record.getMessage() for record in shown.records) == ["[2 similar log lines] [ranks 0-1] step", "loss", "loss"]
    with pytest.raises(SettingError, match="regular expression"):
        this_host().spawn_procs(never=["("])
