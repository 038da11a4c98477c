"""Why the interleaved schedule passes micro-batches in groups no smaller than the pipeline.

Megatron-LM's order: forward passes go by groups of micro-batches through one chunk after the other, backward
passes likewise from the last chunk, one of each after the warm-up of 2 (p - i - 1) + (v - 1) n passes.
"""

from __future__ import annotations

import pytest

Pass = tuple[str, int, int]


def order(devices: int, chunks: int, batches: int, group: int, warm_up: int) -> list[Pass]:
    forward = [
        (batch, chunk)
        for first in range(0, batches, group)
        for chunk in range(chunks)
        for batch in range(first, min(first + group, batches))
    ]
    warm_up = min(warm_up, len(forward))
    found: list[Pass] = [("F", *one) for one in forward[:warm_up]]
    for done, (batch, chunk) in enumerate(forward):
        if warm_up + done < len(forward):
            found.append(("F", *forward[warm_up + done]))
        found.append(("B", batch, chunks - 1 - chunk))
    return found


def needed(one: Pass, device: int, devices: int, chunks: int) -> tuple[Pass, int] | None:
    """Return the pass, and its device, that must be done before `one` on `device`."""
    kind, batch, chunk = one
    if kind == "F":
        if device:
            return one, device - 1
        return (("F", batch, chunk - 1), devices - 1) if chunk else None
    if device < devices - 1:
        return one, device + 1
    return (("B", batch, chunk + 1), 0) if chunk < chunks - 1 else (("F", batch, chunk), device)


def run(devices: int, chunks: int, batches: int, group: int, extra: int = 0) -> tuple[float, float] | None:
    """Return idle micro-batches and those held by the first device; None where every device waits."""
    base = (chunks - 1) * group + extra
    orders = [order(devices, chunks, batches, group, 2 * (devices - i - 1) + base) for i in range(devices)]
    place, clock = [0] * devices, [0.0] * devices
    ends: dict[tuple[Pass, int], float] = {}
    held = most = 0

    moved = True
    while moved:
        moved = False
        for device in range(devices):
            while place[device] < len(orders[device]):
                one = orders[device][place[device]]
                before = needed(one, device, devices, chunks)
                if before is not None and before not in ends:
                    break
                start = max(clock[device], ends[before] if before is not None else 0.0)
                clock[device] = ends[(one, device)] = start + (1.0 if one[0] == "F" else 2.0)
                place[device] += 1
                moved = True
                if device == 0:
                    held += 1 if one[0] == "F" else -1
                    most = max(most, held)
    if any(at < len(found) for at, found in zip(place, orders, strict=True)):
        return None
    return (max(clock) - 3.0 * chunks * batches) / (3.0 * chunks), most / chunks


@pytest.mark.parametrize(("devices", "chunks", "batches"), [(4, 3, 16), (8, 4, 32), (16, 7, 32)])
def test_groups_as_large_as_the_pipeline_idle_one_round_of_a_chunk(
    devices: int, chunks: int, batches: int
) -> None:
    idle, held = run(devices, chunks, batches, devices) or (0.0, 0.0)
    assert idle == pytest.approx((devices - 1) / chunks)
    assert held == pytest.approx((2 * (devices - 1) + (chunks - 1) * devices + 1) / chunks)


@pytest.mark.parametrize(("devices", "chunks", "batches"), [(4, 3, 16), (8, 4, 32), (16, 7, 32)])
def test_smaller_groups_wait_for_themselves(devices: int, chunks: int, batches: int) -> None:
    assert all(run(devices, chunks, batches, group) is None for group in range(1, devices))


def test_the_longer_warm_up_that_frees_them_costs_more_than_it_saves() -> None:
    idle, held = run(4, 3, 16, 3, extra=1) or (0.0, 0.0)
    whole_idle, whole_held = run(4, 3, 16, 4) or (0.0, 0.0)
    assert held > 0.9 * whole_held
    assert idle > whole_idle + 9.0
