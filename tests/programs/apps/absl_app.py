"""absl: its handler stands on the root logger, and its flags set what is shown."""

from __future__ import annotations

import logging
import multiprocessing

from absl import app
from absl import logging as absl_logging
from swap import KIND, swapped_handlers


def work(number: int) -> None:
    """Log by both."""
    absl_logging.info("child %d begins", number)
    absl_logging.vlog(1, "details of %d", number)
    for _ in range(5):
        absl_logging.log_first_n(logging.WARNING, "only twice in child %d", 2, number)
    logging.getLogger("other").error("error of child %d", number)
    try:
        int("no number")
    except ValueError:
        absl_logging.exception("child %d fails", number)


def main(argv: list[str]) -> None:
    """Start two processes."""
    absl_logging.set_verbosity(absl_logging.INFO)
    if KIND != "plain":
        root, own = logging.getLogger(), absl_logging.get_absl_handler()
        root.removeHandler(own)
        for handler in swapped_handlers(own):
            root.addHandler(handler)
    absl_logging.info("main begins")
    children = [multiprocessing.get_context("fork").Process(target=work, args=(number,)) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    absl_logging.info("main ends")


if __name__ == "__main__":
    app.run(main)
