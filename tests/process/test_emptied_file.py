"""A configuration whose file handler truncates its file in every process that applies it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .procs import run_python

PROGRAM = """
import logging, logging.config, multiprocessing, sys

OPTIONS = {options}
CONFIG = {{
    "version": 1,
    "handlers": {{
        "mesh": {{"class": "meshlog_handler.MeshHandler", "handlers": ["file"]}},
        "file": {{"class": "logging.FileHandler", "filename": sys.argv[1], **OPTIONS}},
    }},
    "root": {{"level": "INFO", "handlers": ["mesh"]}},
}}


def work():
    logging.config.dictConfig(CONFIG)
    logging.info("from a worker")


if __name__ == "__main__":
    logging.config.dictConfig(CONFIG)
    logging.info("before")
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
    logging.info("after")
"""


@pytest.mark.parametrize("options", [{"mode": "w"}, {"mode": "w", "delay": True}, {"mode": "a"}], ids=str)
def test_a_handler_that_truncates_its_file_causes_a_warning_and_leaves_no_hole(
    options: dict[str, object], tmp_path: Path
) -> None:
    program, log = tmp_path / "empties.py", tmp_path / "app.log"
    program.write_text(PROGRAM.format(options=options))
    done = run_python(str(program), str(log))
    text = log.read_text()
    assert "\0" not in text
    if options == {"mode": "w"}:
        assert done.stderr.count("empties the file") == 1
        assert 'Write "mode": "a", or "delay": True.' in done.stderr
        assert str(log) in done.stderr
        assert "after" in text.splitlines()
    else:
        assert done.stderr == ""
        assert sorted(text.splitlines()) == ["after", "before", "from a worker"]
