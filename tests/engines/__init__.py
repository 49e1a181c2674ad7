"""Tests with real engines; each engine needs its own environment, and .ci/run creates it."""
