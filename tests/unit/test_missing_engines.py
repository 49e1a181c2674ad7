"""Without its engine, an integration says what to install."""

from __future__ import annotations

import sys

import pytest

from meshlog_handler import integrations

NEEDS = {
    "dask": ("distributed", "dask"),
    "monarch": ("monarch", "monarch"),
    "ray": ("ray", "ray"),
    "torchrun": ("torch", "torch"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_an_integration_without_its_engine_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, extra = NEEDS[name]
    for loaded in [each for each in sys.modules if each.startswith(f"meshlog_handler.integrations.{name}")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delitem(vars(integrations), name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"^{module}[.\w]* is not installed in .*'meshlog-handler\[{extra}\]'$"
    ) as missing:
        _ = getattr(integrations, name).attach
    assert missing.value.name is not None
    assert missing.value.name.partition(".")[0] == module


def test_another_missing_name_is_no_engine() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'spark'"):
        _ = integrations.spark
