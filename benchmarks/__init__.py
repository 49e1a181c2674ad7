"""What meshlog_handler costs, beside its peers: ``python -m benchmarks``.

Each file measures one kind of work, and says in its docstring what that is and how far the number can be trusted.
Subjects that are compared do the same work in the same run, in turn (see `rounds`), so that a busy machine is busy for
all of them: believe the ratios, not the absolute numbers.

::

    rounds, crew, handlers, peers, pace, server     what they share: turns and rows, processes, both ends, subjects
    call rate captured aggregation flush latency footprint startup growth hierarchy
    targets, table, plot, __main__  what is aimed at; the results as Markdown, JSON and SVG; the command
    engines, engine_programs        stand alone: what Ray, Dask and Monarch do with the work of `rate`
    soak                            stands alone: load and killed workers for minutes, then an exact account
"""

from __future__ import annotations
