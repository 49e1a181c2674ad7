"""A command that works with a pool of processes."""

from __future__ import annotations

import logging
import multiprocessing

import django
from django.core.management.base import BaseCommand

log = logging.getLogger("shop")


def restock(number: int) -> int:
    """Log."""
    log.info("restocking %d", number)
    log.warning("only %d left", number)
    return number


class Command(BaseCommand):
    """``manage.py restock METHOD``."""

    def add_arguments(self, parser) -> None:
        """Take the start method."""
        parser.add_argument("method")

    def handle(self, *args, method: str, **options) -> None:
        """Do the work."""
        context = multiprocessing.get_context(method)
        with context.Pool(2, None if method == "fork" else django.setup) as pool:
            log.info("done: %d", sum(pool.map(restock, range(6), chunksize=1)))
        self.stdout.write("finished")
