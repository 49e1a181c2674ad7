"""The tests.

`unit` starts no processes, `process` starts real ones; `stress` is a command of its own, which takes minutes.
"""
