"""Replicas on devices."""

from __future__ import annotations

from planner.search.placement import Block, place
from tests.serving_cases import H100, group


def blocks(pool: str, count: int, stages: int, width: int, bundle: int | None = None) -> list[Block]:
    return [
        Block(pool=pool, replica=i, group=0, num_stages=stages, stage_devices=width, bundle=bundle)
        for i in range(count)
    ]


def domains(devices: tuple[str, ...]) -> set[str]:
    return {name.rsplit("/", 1)[0] for name in devices}


def test_every_device_is_used_once_and_groups_stay_in_a_domain() -> None:
    found = place([*blocks("a", 3, 1, 4), *blocks("b", 2, 1, 2)], [group(H100, 2)])
    assert found is not None
    used = [name for replica in found for name in replica.devices]
    assert len(used) == len(set(used)) == 16
    assert all(len(domains(replica.devices)) == 1 for replica in found)


def test_stages_may_lie_in_different_domains_but_not_their_ranks() -> None:
    found = place(blocks("a", 1, 3, 4), [group(H100, 2)])
    assert found is not None
    stages = [found[0].devices[i : i + 4] for i in (0, 4, 8)]
    assert all(len(domains(stage)) == 1 for stage in stages)
    assert len(domains(found[0].devices)) == 2


def test_wide_groups_take_whole_domains() -> None:
    found = place([*blocks("wide", 1, 1, 16), *blocks("rest", 1, 1, 8)], [group(H100, 3)])
    assert found is not None
    assert len(domains(found[0].devices)) == 2
    assert not domains(found[0].devices) & domains(found[1].devices)


def test_bundles_share_a_domain() -> None:
    found = place(
        [*blocks("p", 2, 1, 2, bundle=0), *blocks("d", 1, 1, 4, bundle=0), *blocks("a", 1, 1, 4)],
        [group(H100, 2)],
    )
    assert found is not None
    together = {name for replica in found if replica.pool in "pd" for name in domains(replica.devices)}
    assert len(together) == 1


def test_what_does_not_fit_is_refused() -> None:
    assert place(blocks("a", 3, 1, 6), [group(H100, 2)]) is None
