"""Configures logging in every process of a test run, as many a project's ``conftest.py`` does."""

from __future__ import annotations

import logging

import pytest
import usual

usual.configure()
log = logging.getLogger("suite")


@pytest.fixture(autouse=True)
def told(request):
    """Log the beginning and the end of each test."""
    log.info("begin %s", request.node.name)
    yield
    log.info("end %s", request.node.name)
