"""The prefix cache of a rank: whole prompt blocks, least recently used out first, in tiers.

Blocks that leave the device go to the tiers below it, where a later request fetches them at the tier's
bandwidth instead of computing them. A hash stands for its block and all before it, as in the traces
of Mooncake (Qin et al., FAST 2025).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Storage below the device: tokens that fit, and tokens that arrive per second."""

    name: str
    capacity_tokens: float
    tokens_per_s: float


@dataclass(slots=True, kw_only=True)
class Store:
    """The blocks of one tier in order of use."""

    tier: Tier
    blocks: OrderedDict[int, None] = field(default_factory=OrderedDict[int, None])
    hit_blocks: int = 0


@dataclass(slots=True, kw_only=True)
class PrefixCache:
    """Blocks of `block_tokens` tokens on the device, pinned while a request uses them, and in tiers below."""

    block_tokens: int
    stores: list[Store] = field(default_factory=list[Store])
    hit_blocks: int = 0
    _pins: dict[int, int] = field(default_factory=dict[int, int])
    _free: OrderedDict[int, None] = field(default_factory=OrderedDict[int, None])

    @property
    def pinned_tokens(self) -> int:
        """Tokens on the device that requests use."""
        return len(self._pins) * self.block_tokens

    @property
    def device_tokens(self) -> int:
        """Tokens on the device."""
        return (len(self._pins) + len(self._free)) * self.block_tokens

    def on_device(self, blocks: tuple[int, ...]) -> int:
        """Return how many leading blocks are on the device."""
        for count, block in enumerate(blocks):
            if block not in self._pins and block not in self._free:
                return count
        return len(blocks)

    def match(self, blocks: tuple[int, ...]) -> tuple[int, float]:
        """Return how many leading blocks need no computing, and the seconds until those below have come."""
        count = self.on_device(blocks)
        self.hit_blocks += count
        fetch_s = 0.0
        while count < len(blocks):
            store = next((s for s in self.stores if blocks[count] in s.blocks), None)
            if store is None:
                break
            store.blocks.move_to_end(blocks[count])
            store.hit_blocks += 1
            fetch_s += self.block_tokens / store.tier.tokens_per_s
            count += 1
        return count, fetch_s

    def pin(self, blocks: tuple[int, ...]) -> None:
        """Hold blocks on the device for a request."""
        for block in blocks:
            self._free.pop(block, None)
            self._pins[block] = self._pins.get(block, 0) + 1

    def unpin(self, blocks: tuple[int, ...]) -> None:
        """Let go of blocks; they stay until the room is needed."""
        for block in blocks:
            left = self._pins[block] - 1
            if left:
                self._pins[block] = left
            else:
                del self._pins[block]
                self._free[block] = None

    def shrink(self, room_tokens: float) -> None:
        """Move unpinned blocks down until those on the device take at most `room_tokens`."""
        while self._free and self.device_tokens > room_tokens:
            block, _ = self._free.popitem(last=False)
            self._put_down(block, 0)

    def _put_down(self, block: int, level: int) -> None:
        for store in self.stores[level:]:
            level += 1
            store.blocks[block] = None
            store.blocks.move_to_end(block)
            if len(store.blocks) * self.block_tokens <= store.tier.capacity_tokens:
                return
            block, _ = store.blocks.popitem(last=False)

    def drop(self) -> None:
        """Forget everything on the device."""
        self._pins.clear()
        self._free.clear()
