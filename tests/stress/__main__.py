"""Try every fault many times::

    python -m tests.stress --tries 20      the long form: more than a thousand kills, about forty minutes
    python -m tests.stress --short         each fault once, without the slow ones: a minute or two

It prints a table. It exits with 1 if anything was lost, shown twice or delayed too long. ``--only WORD`` (repeatable) chooses
the faults with the word in their names; ``--list`` prints all names.
"""

from __future__ import annotations

import argparse
import sys
import warnings

from . import all_faults
from .table import table, try_all


def main() -> int:
    """Run the command; return 1 if there was a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description="Try every fault many times.")
    parser.add_argument("--tries", type=int, help="how many times each is tried (20; with --short once)")
    parser.add_argument("--short", action="store_true", help="leave out those that take long")
    parser.add_argument("--seed", type=int, default=1, help="decides what is left to chance")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="those with this word in their names")
    parser.add_argument("--list", action="store_true", help="name the faults and end")
    options = parser.parse_args()
    faults = [each for each in all_faults().values() if not options.only or any(word in each.name for word in options.only)]
    faults = [each for each in faults if each.short or not options.short]
    if options.list or not faults:
        print("\n".join(each.name for each in faults) or "no fault has such a name")
        return 0 if faults else 2
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn at each fork of a process with threads
    rows = try_all(faults, options.tries or (1 if options.short else 20), options.seed)
    print(f"\n{table(rows)}")
    return int(any(counts.problems for _, _, counts in rows))


if __name__ == "__main__":
    sys.exit(main())
