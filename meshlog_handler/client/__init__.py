"""The client: its thread, which reads all peers and shows what they send, and what other threads may ask of it.

::

    log_client   its public class: start, stop, address, and what happens when a process joins
    new_peers    makes the peer of a new connection
    requests     the public methods that ask the client's thread, from any thread
    calls        flushes and commands, as the client's thread starts them
    switches     changes of what is shown, each with its place in every stream
    loop         the thread: wait, read, show, answer, clean up after peers
    stopping     the end, as another thread sees it

The files beside the folders may import these, except `relay`, which imports them.

May import: _version, errors, settings, system, protocol, journal, transport, grouping, insight, lines, output, worker,
dispatch.
"""

from __future__ import annotations
