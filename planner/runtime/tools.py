"""Runs tools: a Python function, a command or an address. What hangs is cut."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, cast

from planner.runtime.bindings import ToolBinding, ToolFunction, ToolRequest
from planner.runtime.clients.chat import ChatClient
from planner.runtime.failures import CallError

_MAX_OUTPUT_BYTES = 64 * 1024 * 1024
_SHOWN_CHARS = 300
_GRACE_S = 0.5


async def run_tool(binding: ToolBinding, request: ToolRequest, client: ChatClient) -> str:
    """Return what a tool says.

    Raises
    ------
    CallError
        If it fails, or takes longer than its time-out.
    """
    try:
        async with asyncio.timeout(binding.timeout_s):
            if binding.function is not None:
                return await _function(binding.function, request)
            if binding.command:
                return await _command(binding.command, request)
            return await client.post(binding.url, _data(request), binding.timeout_s)
    except TimeoutError:
        raise CallError(f"the tool did not end within {binding.timeout_s:g} s", again=True) from None


def _data(request: ToolRequest) -> dict[str, object]:
    return {
        "tool": request.tool,
        "node": request.node,
        "arguments": request.arguments,
        "input": request.input,
        "inputs": dict(request.inputs),
    }


async def _function(function: ToolFunction, request: ToolRequest) -> str:
    try:
        if inspect.iscoroutinefunction(function):
            return _text(await cast("Any", function)(request))
        found = await _in_thread(lambda: function(request))
        return _text(await found if inspect.isawaitable(found) else found)
    except (asyncio.CancelledError, TimeoutError, CallError):
        raise
    except Exception as error:
        raise CallError(f"{type(error).__name__}: {error}", again=True) from error


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


async def _in_thread(call: Callable[[], Any]) -> Any:
    """Run a call in a thread of its own, which is left behind if nobody waits any longer.

    A daemon thread, so that a function that never returns does not keep the process alive.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def work() -> None:
        value, failure = None, None
        try:
            value = call()
        except BaseException as error:  # noqa: BLE001 - handed to the waiting coroutine
            failure = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=work, daemon=True, name="newel-tool").start()
    return await future


async def _command(command: tuple[str, ...], request: ToolRequest) -> str:
    """Run a program without a shell: the request as JSON on its input, its output is the answer."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise CallError(f"the command cannot be started ({error})", again=False) from None
    try:
        out, err = await process.communicate(json.dumps(_data(request)).encode())
    except BaseException:
        await _kill(process)
        raise
    if process.returncode:
        shown = " ".join(err.decode("utf-8", errors="replace").split())[-_SHOWN_CHARS:]
        raise CallError(f"the command ended with code {process.returncode}: {shown}", again=True)
    if len(out) > _MAX_OUTPUT_BYTES:
        raise CallError("the command wrote too much", again=False)
    return out.decode("utf-8", errors="replace").rstrip("\n")


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End a program and everything it started: asked first, then by force."""
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            await asyncio.wait_for(process.wait(), wait_s)
        except TimeoutError:
            continue
        if number == signal.SIGKILL:
            return
