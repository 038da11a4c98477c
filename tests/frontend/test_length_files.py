"""Files of lengths: each form, and what is wrong with bad ones, with file and line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.frontend.length_files import read_lengths


def _index(lengths: list[int], version: int = 1, claimed: int | None = None) -> bytes:
    count = len(lengths) if claimed is None else claimed
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", version, 8, count, count + 1)
    body = struct.pack(f"<{len(lengths)}i", *lengths)
    pointers = struct.pack(f"<{len(lengths)}q", *range(len(lengths)))
    return header + body + pointers


@pytest.mark.parametrize(
    ("content", "lengths", "weights"),
    [
        (b"5\n7\n\n9\n", (5, 7, 9), ()),
        (b"# a comment\n5\n", (5,), ()),
        (b"length,count\n128,10\n4096,1.5\n", (128, 4096), (10.0, 1.5)),
        (b"id,length\na,3\nb,4\n", (3, 4), ()),
        (b'{"length": 3}\n{"num_tokens": 4, "id": "x"}\n', (3, 4), ()),
        (_index([10, 20, 30]), (10, 20, 30), ()),
    ],
)
def test_forms(tmp_path: Path, content: bytes, lengths: tuple[int, ...], weights: tuple[float, ...]) -> None:
    path = tmp_path / "lengths"
    path.write_bytes(content)
    found = read_lengths(path)
    assert (found.lengths, found.weights) == (lengths, weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no length"),
        (b"5\nx\n", "lengths:2"),
        (b"0\n", "lengths:1"),
        (b"-3\n", "first line names"),
        (b"5\n99999999999999999999\n", "lengths:2"),
        (b"length,count\n5,-1\n", "lengths:2"),
        (b"length,count\n5\n", "lengths:2"),
        (b"length,count\n5,0\n", "positive"),
        (b"tokens\n5\n", "first line names"),
        (b'{"length": 3}\n{"length": true}\n', "lengths:2"),
        (b'{"length": 3}\n[[[\n', "lengths:2"),
        (b"\xff\xfe\x00", "neither text"),
        (_index([1, 2], version=9), "another version"),
        (_index([1, 2], claimed=1 << 40), "cut off"),
        (b"MMIDIDX\x00\x00\x01", "cut off"),
        (_index([0, 0]), "usable"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "lengths"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_lengths(path)
    assert message in str(error.value)


def test_batches(tmp_path: Path) -> None:
    path = tmp_path / "lengths"
    path.write_text("1\n2\n3\n4\n5\n", encoding="utf-8")
    listed = read_lengths(path)
    assert listed.batches(2, 2, seed=0) == [(1, 2), (3, 4)]
    with pytest.raises(InputError, match="too few"):
        listed.batches(3, 2, seed=0)
    path.write_text("length,count\n8,0\n16,3\n32,1\n", encoding="utf-8")
    drawn = read_lengths(path)
    (batch,) = drawn.batches(1000, 1, seed=4)
    assert batch == drawn.batches(1000, 1, seed=4)[0]
    assert 8 not in batch
    assert 0.7 < batch.count(16) / 1000 < 0.8
