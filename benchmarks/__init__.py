"""The cost of meshlog_handler, compared with its peers: ``python -m benchmarks``.

Each file measures one kind of work. Its docstring says what that is and how far the number can be trusted.
Compared subjects do the same work in the same run, in turn (see `rounds`), so a busy machine is busy for all
of them: trust the ratios, not the absolute numbers.

::

    rounds, crew, handlers, peers, pace, server     shared code: turns and rows, processes, both ends, subjects
    call rate queues captured aggregation flush latency footprint startup growth hierarchy scale insight
    targets, table, plot, __main__  the targets; the results as Markdown, JSON and SVG; the command
    engines, engine_programs        separate: what Ray, Dask and Monarch do with the work of `rate`
    detection, faulty               separate: what is told of faults, and of jobs without one
    observers                       separate: what a stopped `meshlog follow`, `top` or `web` costs
    soak                            separate: load and killed workers for minutes, then an exact account
    chaos, chaos_account, chaos_programs, chaos_dask    separate: faults on several hosts for minutes, then an exact account
"""

from __future__ import annotations
