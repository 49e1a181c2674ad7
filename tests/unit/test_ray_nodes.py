"""When a node of Ray is tried again on which no relay has started. Ray is a stub, and the clock is moved by hand."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from unittest.mock import MagicMock

import pytest

from meshlog_handler import integrations
from meshlog_handler.client.relay.attempts import PAUSES_SEC

STUBBED = ("ray", "ray.experimental", "ray.util", "ray.util.scheduling_strategies")
PACKAGE = "meshlog_handler.integrations.ray"


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[MagicMock]:
    """Ray, with one node on which an actor answers with what `ray.get` returns or raises."""
    stub = MagicMock()
    stub.nodes.return_value = [{"NodeID": "far", "Alive": True}]
    monkeypatch.setattr(integrations, "ray", None, raising=False)  # importing the stub sets it
    before = {name for name in sys.modules if name.startswith(PACKAGE)}
    for name in STUBBED:
        monkeypatch.setitem(sys.modules, name, stub if name == "ray" else MagicMock())
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    yield stub
    for name in [name for name in sys.modules if name.startswith(PACKAGE) and name not in before]:
        del sys.modules[name]


def test_a_node_whose_relay_has_not_started_in_time_is_tried_again_after_a_pause(
    ray: MagicMock, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes = importlib.import_module(f"{PACKAGE}.nodes")
    now = [100.0]
    monkeypatch.setattr(nodes, "monotonic", lambda: now[0])
    relays = nodes.NodeRelays("job", "meshlog:address", True)
    made, ended = ray.remote.return_value.options.return_value.remote, ray.kill
    ray.get.side_effect = TimeoutError("not in time")
    relays._start_on_new_nodes()
    relays._start_on_new_nodes()
    now[0] += PAUSES_SEC[0] - 0.1
    relays._start_on_new_nodes()
    assert (made.call_count, ended.call_count) == (1, 1)  # and the actor that did not answer has ended
    assert "node far has no relay: TimeoutError: not in time; the next attempt follows in 10 s" in capfd.readouterr().err
    now[0] += 0.1
    ray.get.side_effect = [False]  # the client is reachable from there: no relay is needed
    relays._start_on_new_nodes()
    now[0] += 1e6
    relays._start_on_new_nodes()
    assert made.call_count == 2


def test_a_relay_without_an_address_is_not_kept(ray: MagicMock, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = importlib.import_module(f"{PACKAGE}.nodes")
    tunnel = MagicMock()
    monkeypatch.setattr(nodes, "Tunnel", tunnel)
    relays = nodes.NodeRelays("job", "meshlog:address", True)
    ray.get.side_effect = [True, TimeoutError("not in time")]
    relays._start_on_new_nodes()
    assert relays._relays == []
    tunnel.return_value.start.return_value.close.assert_called_once()
