"""rich: records in columns, tracebacks in boxes, and a table of its own beside them: ``rich_app.py METHOD``."""

from __future__ import annotations

import logging
import multiprocessing
import sys

from rich.console import Console
from rich.logging import RichHandler
from swap import swapped_handlers

console = Console(width=100)


def configure() -> None:
    """Configure logging as rich's documentation shows."""
    handler = RichHandler(console=console, show_time=False, rich_tracebacks=False, markup=True, show_path=True)
    logging.basicConfig(level="INFO", format="%(message)s", handlers=swapped_handlers(handler), force=True)


def work(number: int) -> None:
    """Log with markup, and with an exception."""
    if multiprocessing.get_start_method() != "fork":
        configure()
    log = logging.getLogger("rich")
    log.info("child %d: [bold]bold[/bold] text, {'a': 1}", number)
    log.warning("child %d: no markup: [red]", number, extra={"markup": False})
    log.info("child %d: GET /index.html 200", number, extra={"highlighter": None})
    try:
        int("no number")
    except ValueError:
        log.exception("child %d fails", number)


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    configure()
    children = [multiprocessing.Process(target=work, args=(number,)) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    logging.getLogger("main").info("main ends")
