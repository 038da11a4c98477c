from __future__ import annotations

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model

# Published totals (model cards and safetensors metadata); DeepSeek and Kimi without MTP and buffers.
PUBLISHED = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-v3": 671_026_404_352,
    "gpt-oss-120b": 116_829_156_672,
    "gpt-oss-20b": 20_914_757_184,
}


@pytest.mark.parametrize(("name", "total"), PUBLISHED.items())
def test_a_bundled_model_has_its_published_total(name: str, total: int) -> None:
    assert load_model(name, diagnostics=Diagnostics()).num_params == total
