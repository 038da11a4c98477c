"""How many patches and tokens an image becomes, read from the vision part of a config.

Towers of native resolution cut an image into patches of p pixels and merge m x m of them into one token
(Qwen3-VL, Qwen3.5, Pixtral, Kimi, MiniMax; image processors of transformers round sides to whole tokens).
Towers of a fixed resolution scale every image to one size (Gemma 3: mm_tokens_per_image).
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.ir.model_graph import VisionTower

NATIVE = ("qwen3-vl", "qwen3-5", "mistral3", "kimi-k25", "minimax-m3")
FIXED = ("gemma3",)
_HEADS = ("num_attention_heads", "num_heads", "vt_num_attention_heads")


def read_tower(family: str, config: ConfigReader) -> VisionTower | None:
    """Return the tower of a family whose images are understood; None of others, and without a tower."""
    if family not in (*NATIVE, *FIXED) or not config.has("vision_config"):
        return None
    vision = config.section("vision_config")
    heads = next((key for key in _HEADS if vision.has(key)), "")
    if not heads:
        return None
    patch = vision.count("patch_size")
    if family in FIXED:
        side = vision.count("image_size") // patch
        return VisionTower(
            num_heads=vision.count(heads),
            patch=patch,
            fixed_patches=side * side,
            fixed_tokens=config.count("mm_tokens_per_image", 256),
        )
    return VisionTower(num_heads=vision.count(heads), patch=patch, merge=_merge(config, vision))


def _merge(config: ConfigReader, vision: ConfigReader) -> int:
    """Return along how many patches a side of a token is."""
    kernel = vision.counts("merge_kernel_size", minimum=1)
    if kernel:
        return kernel[0]
    for holder in (vision, config):
        if holder.has("spatial_merge_size"):
            return holder.count("spatial_merge_size")
    if vision.has("img_token_compression_config"):
        return vision.section("img_token_compression_config").count("spatial_merge_size", 2)
    return 2
