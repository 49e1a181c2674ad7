"""The tests.

`unit` starts no processes, `process` starts real ones; `stress` takes minutes and runs only when asked for.
"""
