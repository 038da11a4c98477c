"""A pretended OpenAI-compatible endpoint on loopback, for examples and tests: words at a set pace.

    python -m planner.runtime.fake_endpoint --port 8001 --decode-s 0.01

It is no model and its times say nothing about one; it shows how a plan runs, and fails on request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Fault = Literal["ok", "429", "500", "400", "reset", "half", "garbage", "not_json", "hang", "stall", "open"]
Reply = Callable[[list[dict[str, str]]], str]
_MAX_BODY_BYTES = 64 * 1024 * 1024
_CHARS_PER_TOKEN = 4
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the endpoint pretends to be: seconds before the prompt, tokens/s of it, seconds per token."""

    overhead_s: float = 0.0
    prefill_tokens_per_s: float = 1e6
    decode_s_per_token: float = 0.001
    num_tokens: int = 16


@dataclass(slots=True, kw_only=True)
class SeenRequest:
    """A request as it was received and what became of it."""

    body: dict[str, Any]
    at_s: float
    num_sent: int = 0
    ended: bool = False
    aborted: bool = False

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages that it asked with."""
        return cast("list[dict[str, str]]", self.body.get("messages", []))


@dataclass(slots=True, kw_only=True)
class FakeEndpoint:
    """The endpoint: `faults` are used up one per request, then all goes well; `reply` makes the answers."""

    pace: Pace = field(default_factory=Pace)
    faults: deque[Fault] = field(default_factory=deque[Fault])
    reply: Reply | None = None
    retry_after_s: float = 0.2
    seen: list[SeenRequest] = field(default_factory=list[SeenRequest])
    num_running: int = 0
    most_running: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    @property
    def url(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, port: int = 0) -> FakeEndpoint:
        """Listen on loopback; port 0 takes a free one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=4096)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def stop(self) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while (body := await _request(reader)) is not None:
                if not await self._answer(body, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        except asyncio.CancelledError:
            # the loop is being closed
            return
        finally:
            self._open.discard(writer)
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _answer(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; return whether the connection goes on."""
        seen = SeenRequest(body=body, at_s=asyncio.get_running_loop().time())
        self.seen.append(seen)
        fault: Fault = self.faults.popleft() if self.faults else "ok"
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            if fault in ("429", "500", "400"):
                await _refuse(writer, fault, self.retry_after_s)
                return True
            if fault == "reset":
                writer.transport.abort()
                return False
            if fault == "not_json":
                _head(writer, "200 OK", "application/json", close=True)
                writer.write(b"<html>hello</html>")
                await writer.drain()
                return False
            return await self._stream(seen, fault, reader, writer)
        finally:
            seen.ended = True
            self.num_running -= 1

    async def _stream(
        self, seen: SeenRequest, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        prompt = sum(len(str(m.get("content", ""))) for m in seen.messages) // _CHARS_PER_TOKEN + 1
        pace = self.pace
        if not await _pause(pace.overhead_s + prompt / pace.prefill_tokens_per_s, reader):
            seen.aborted = True
            return False
        words = self._words(seen)
        if not seen.body.get("stream"):
            await asyncio.sleep(pace.decode_s_per_token * len(words))
            _whole(writer, "".join(words), prompt, len(words))
            return True
        _head(writer, "200 OK", "text/event-stream")
        loop = asyncio.get_running_loop()
        began = loop.time()
        for i, word in enumerate(words):
            if fault in ("half", "garbage", "hang", "stall") and i == len(words) // 2:
                return await _break(fault, reader, writer)
            # paced by the clock, so that late wake-ups do not add up
            await asyncio.sleep(max(began + (i + 1) * pace.decode_s_per_token - loop.time(), 0.0))
            if reader.at_eof() or writer.is_closing():
                seen.aborted = True
                return False
            _event(writer, {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
            seen.num_sent += 1
        limit = seen.body.get("max_tokens")
        finish = "length" if limit is not None and len(words) >= limit else "stop"
        usage = {"prompt_tokens": prompt, "completion_tokens": len(words)}
        _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": usage})
        if fault == "open":
            # the answer is whole, but neither the end mark nor the end of the body comes
            await writer.drain()
            return await _pause(3600.0, reader)
        done = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done))
        await writer.drain()
        return True

    def _words(self, seen: SeenRequest) -> list[str]:
        limit = seen.body.get("max_tokens")
        if self.reply is None:
            count = self.pace.num_tokens if limit is None else int(limit)
            return [f"w{i} " for i in range(count)]
        text = self.reply(seen.messages)
        words = [text[i : i + _CHARS_PER_TOKEN] for i in range(0, len(text), _CHARS_PER_TOKEN)]
        return words if limit is None else words[: int(limit)]


async def _pause(seconds: float, reader: asyncio.StreamReader) -> bool:
    """Wait; return False as soon as the other side has hung up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0:
        if reader.at_eof():
            return False
        await asyncio.sleep(min(left, _LOOK_S))
    return True


async def _request(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Return the body of the next request, None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    size = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = min(int(value), _MAX_BODY_BYTES)
    data = await reader.readexactly(size)
    return cast("dict[str, Any]", json.loads(data)) if data else {}


def _head(writer: asyncio.StreamWriter, status: str, kind: str, *, close: bool = False) -> None:
    rest = "connection: close" if close else "transfer-encoding: chunked"
    writer.write(f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{rest}\r\n\r\n".encode())


def _event(writer: asyncio.StreamWriter, data: dict[str, Any]) -> None:
    line = b"data: %s\n\n" % json.dumps({"id": "fake", "object": "chat.completion.chunk", **data}).encode()
    writer.write(b"%x\r\n%s\r\n" % (len(line), line))


def _whole(writer: asyncio.StreamWriter, text: str, prompt: int, count: int) -> None:
    message = {"role": "assistant", "content": text}
    answer = {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": count},
    }
    data = json.dumps(answer).encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (len(data), data)
    )


async def _refuse(writer: asyncio.StreamWriter, status: str, retry_after_s: float) -> None:
    data = json.dumps({"error": {"message": f"asked to answer {status}"}}).encode()
    retry = f"retry-after: {retry_after_s:g}\r\n" if status == "429" else ""
    head = f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\n{retry}"
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    await writer.drain()


async def _break(fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Do in the middle of an answer what the fault says."""
    if fault == "garbage":
        _event(writer, {})
        line = b"data: {]garbage\n\n"
        writer.write(b"%x\r\n%s\r\n" % (len(line), line))
        await writer.drain()
        return False
    if fault == "half":
        # a clean end of the body, but the answer has no end
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True
    await writer.drain()
    await _pause(3600.0, reader)
    return False


def main(arguments: list[str]) -> int:
    """Serve until interrupted; the first line of the output is the address."""
    parser = argparse.ArgumentParser(prog="python -m planner.runtime.fake_endpoint", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--overhead-s", type=float, default=0.02)
    parser.add_argument("--prefill-tokens-per-s", type=float, default=8000.0)
    parser.add_argument("--decode-s", type=float, default=0.01, help="seconds per token")
    parser.add_argument("--tokens", type=int, default=64, help="length of an answer without max_tokens")
    given = parser.parse_args(arguments)
    pace = Pace(
        overhead_s=given.overhead_s,
        prefill_tokens_per_s=given.prefill_tokens_per_s,
        decode_s_per_token=given.decode_s,
        num_tokens=given.tokens,
    )

    async def serve() -> None:
        endpoint = await FakeEndpoint(pace=pace).start(given.port)
        sys.stdout.write(endpoint.url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
