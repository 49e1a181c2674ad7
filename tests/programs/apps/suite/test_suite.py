"""Tests that log, one of which fails, and one of which looks at what was logged."""

from __future__ import annotations

import logging

import pytest

log = logging.getLogger("tested")


@pytest.mark.parametrize("number", range(8))
def test_number(number):
    log.info("number %d", number)
    assert number != 5


def test_caplog(caplog):
    log.warning("looked at")
    assert caplog.messages == ["looked at"]
