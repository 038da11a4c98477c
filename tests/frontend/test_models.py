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
    "llama-3.2-3b": 3_212_749_824,
    "llama-7b": 6_738_415_616,
    "llama-65b": 65_285_660_672,
    "codellama-34b": 33_743_970_304,
    "yi-6b": 6_061_035_520,
    "mistral-small-24b": 23_572_403_200,
    "codestral-22b": 22_247_282_688,
    "ministral-8b": 8_019_808_256,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-14b": 14_768_307_200,
    "phi-4-mini": 3_836_021_760,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-4b": 4_300_079_472,
    "gemma-3-12b": 12_187_325_040,
    "deepseek-v2-lite": 15_706_484_224,
    "opt-13b": 12_853_473_280,
    "falcon-40b": 41_303_293_952,
    "command-r-plus": 103_810_674_688,
    "starcoder2-15b": 15_957_889_024,
    "olmo-2-32b": 32_234_279_936,
    "seed-oss-36b": 36_151_104_512,
}
# Where only a rounded total is published: within its last digit.
ROUNDED_BILLIONS = {
    "glm-4.5": (355, 5),  # with its layer for multi-token prediction, which is left out here
    "glm-4.5-air": (106, 1),
    "deepseek-v2": (236, 1),
    "nemotron-4-340b": (340, 2),
    "gpt3-175b": (175, 1),
    "opt-66b": (66, 1),
    "deepseek-llm-67b": (67, 1),
}


@pytest.mark.parametrize("name", ROUNDED_BILLIONS)
def test_a_bundled_model_is_as_large_as_it_is_said_to_be(name: str) -> None:
    billions, within = ROUNDED_BILLIONS[name]
    assert load_model(name, diagnostics=Diagnostics()).num_params / 1e9 == pytest.approx(billions, abs=within)


def test_a_bundled_model_answers_to_its_aliases_without_their_owner() -> None:
    found = load_model("DeepSeek-R1-Distill-Llama-70B", diagnostics=Diagnostics())
    assert found.num_params == PUBLISHED["llama-3.1-70b"]


@pytest.mark.parametrize(("name", "total"), PUBLISHED.items())
def test_a_bundled_model_has_its_published_total(name: str, total: int) -> None:
    assert load_model(name, diagnostics=Diagnostics()).num_params == total
