"""The tests.

`unit` starts no processes, `process` starts real ones; `stress` is a separate command, which takes minutes.
"""
