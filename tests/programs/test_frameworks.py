"""Flask's server, and suites of pytest-xdist."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from .needed import need
from .running import APPS, Place, same


@pytest.mark.parametrize("handlers", ["mesh", "each"])
def test_flask_shows_the_same_with_our_handlers(handlers: str, tmp_path: Path) -> None:
    """A filter and a formatter read the current request; each thread has its own request."""
    need("flask")

    def scenario(place: Place) -> None:
        with place.start("flask_app.py") as server:
            server.until_listens()
            for path in ("/a", "/b", "/boom", "/c"):
                server.ask(path)
            # The HTTP client gets its answer before the server has logged the request, and SIGINT interrupts the rest.
            place.until_shown(r"GET /\w* HTTP", 4)
            server.stop(signal.SIGINT)

    same(scenario, tmp_path, handlers, variables={"THREADED": "yes" if handlers == "each" else "no"})


@pytest.mark.parametrize("count", ["0", "2"])
def test_a_pytest_suite_shows_the_same_with_our_handlers(count: str, tmp_path: Path) -> None:
    """With ``-n 2``, separate processes run the tests and capture their output."""
    need("xdist")
    words = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        count,
        "--log-level=INFO",
        str(APPS / "suite"),
    )
    chance = (
        (r" in \d+\.\d+s", " in SECONDS"),
        (r"\[gw\d\]", "[gwN]"),
        (r"(?m)^[.F]+ +\[", "["),
        (r"(?m)^[.F]+$", ""),
        (r"\bThread-\d+", "Thread-N"),
        (r"Process-\d+", "Process-N"),
        (r"(?m)^bringing up nodes.*$", ""),
    )
    same(lambda place: place.run(*words, code=1), tmp_path, normal=chance)
