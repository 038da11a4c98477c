"""Without the package, or for a device or an engine that it does not know, the refusal says what to do."""

import importlib

import pytest

from cost_models.aiconfigurator import package
from cost_models.aiconfigurator.query import AiconfiguratorError
from hardware_profiles.loader import load_device, load_software
from hardware_profiles.schema import Fact
from planner.errors import InputError
from planner.ir.cost_sources import COST_SOURCES, priced_by

_import = importlib.import_module


def _absent(name: str) -> object:
    if name.startswith(package.MODULE):
        raise ImportError(name)
    return _import(name)


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(package.importlib, "import_module", _absent)
    monkeypatch.setattr(package, "installed", lambda: False)
    with pytest.raises(
        InputError, match=r"costs: aiconfigurator-core is not installed.*newel\[aiconfigurator\]"
    ):
        priced_by("aiconfigurator", load_device("h100"), load_software("trtllm"))


def test_a_package_that_cannot_be_imported_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.importlib, "import_module", _absent)
    monkeypatch.setattr(package, "installed", lambda: True)
    monkeypatch.setattr(package, "version", lambda name: "9.9")
    with pytest.raises(AiconfiguratorError, match=r"aiconfigurator-core 9\.9 cannot be used here"):
        package.sdk("engine")


@pytest.mark.parametrize("device", ["mi300x", "t4", "h100-pcie"])
def test_devices_without_tables_are_refused_by_name(device: str) -> None:
    with pytest.raises(InputError, match=f"no measured tables for {device}.*h100"):
        priced_by("aiconfigurator", load_device(device), load_software("vllm"))


def test_every_system_is_one_of_our_devices() -> None:
    assert [load_device(name).name for name in package.SYSTEMS] == list(package.SYSTEMS)


def test_the_own_source_is_the_library() -> None:
    software = load_software("vllm").model_copy(update={"compute_scale": Fact(value=1.1, source="fitted")})
    priced = priced_by("newel", load_device("h100"), software)
    assert priced.software is software
    assert priced.remarks() == ()


def test_sources_say_what_they_are() -> None:
    assert COST_SOURCES.names()[0] == "aiconfigurator"
    assert all(source.says for _, source in COST_SOURCES.items())
