"""Digests, from the interpreter itself: `hashlib` and `hmac` load OpenSSL, a tenth of what a worker imports. Pure."""

from __future__ import annotations

__all__ = ("blake2b", "compare_digest")

try:
    from _blake2 import blake2b
    from _operator import _compare_digest as compare_digest
except ImportError:  # another build of Python has them elsewhere
    from hashlib import blake2b
    from hmac import compare_digest  # type: ignore[no-redef]  # the same function
