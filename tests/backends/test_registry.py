from __future__ import annotations

import pytest

from planner.backends import BACKENDS
from planner.plan.schema import StrategyModel, TrainingSettings


@pytest.mark.parametrize("name", BACKENDS.names())
def test_every_degree_of_a_strategy_is_expressed_or_refused_with_a_reason(name: str) -> None:
    capabilities = BACKENDS.get(name).capabilities
    known = capabilities.degrees | capabilities.refused_degrees.keys()
    assert set(StrategyModel.model_fields) == known, f"{name} must support or refuse every search dimension"
    assert all(capabilities.refused_degrees.values())


@pytest.mark.parametrize("name", BACKENDS.names())
def test_backends_know_their_name(name: str) -> None:
    assert BACKENDS.get(name).name == name


@pytest.mark.parametrize("name", BACKENDS.names())
def test_every_setting_of_a_training_job_is_expressed_or_refused_with_a_reason(name: str) -> None:
    capabilities = BACKENDS.get(name).capabilities
    known = capabilities.settings | capabilities.refused_settings.keys()
    wanted = set(TrainingSettings.model_fields) if "training" in capabilities.kinds else set()
    assert known == wanted, f"{name} must support or refuse every setting"
    assert all(capabilities.refused_settings.values())
