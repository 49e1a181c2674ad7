"""Tests with real engines; each needs its own environment, and .ci/run makes that."""
