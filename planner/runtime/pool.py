"""The servers behind a plan's models, shared by all runs: limits, least-loaded choice, retries, fail-over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from planner.ir.agent_graph import AgentModel
from planner.runtime.bindings import Endpoint
from planner.runtime.clients.chat import ChatClient, ChatRequest, Completion, OnText, proxy_of
from planner.runtime.failures import CallError
from planner.runtime.limits import Limiter
from planner.runtime.records import CallRecord

_REST_S = 2.0
_MAX_REST_S = 30.0
_SMOOTHING = 0.2


@dataclass(slots=True, kw_only=True)
class _Server:
    """One address of an endpoint; it rests after it was found to be gone."""

    url: str
    proxy: str | None = None
    num_running: int = 0
    num_failures: int = 0
    rests_until_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class ModelPool:
    """An endpoint in use. `tokens_per_piece` is learnt from the counts that the server gives."""

    name: str
    endpoint: Endpoint
    limiter: Limiter
    servers: list[_Server]
    tokens_per_piece: float = 1.0
    num_counted: int = field(default=0)

    @property
    def sent_name(self) -> str:
        """Name by which the server knows the model."""
        return self.endpoint.model or self.name

    def pick(self, now: float) -> _Server:
        """Return the server with the fewest calls; those that rest only if all do."""
        awake = [s for s in self.servers if s.rests_until_s <= now]
        return min(awake or self.servers, key=lambda s: (s.num_running, s.num_failures, s.rests_until_s))

    def learn(self, completion: Completion) -> None:
        """Take in how many tokens a piece of the stream holds."""
        if completion.output_tokens is None or completion.num_pieces < 2 or completion.interrupted:
            return
        seen = completion.output_tokens / completion.num_pieces
        weight = 1.0 if not self.num_counted else _SMOOTHING
        self.tokens_per_piece += weight * (max(seen, 0.1) - self.tokens_per_piece)
        self.num_counted += 1


def pool_of(model: AgentModel, endpoint: Endpoint) -> ModelPool:
    """Return the pool of a model: limits are the endpoint's, else the plan's."""
    slots = endpoint.concurrency if endpoint.concurrency is not None else model.slots * model.replicas
    rate = endpoint.calls_per_minute if endpoint.calls_per_minute is not None else model.calls_per_minute
    tokens = endpoint.tokens_per_minute if endpoint.tokens_per_minute is not None else model.tokens_per_minute
    return ModelPool(
        name=model.name,
        endpoint=endpoint,
        limiter=Limiter(slots, rate, tokens),
        servers=[_Server(url=url, proxy=proxy_of(url)) for url in endpoint.urls],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call to be made: messages, further fields of the body, priority (smaller first), record.

    `tokens` are those of its prompt and expected answer, for rates that count them.
    """

    messages: list[dict[str, str]]
    fields: Mapping[str, object]
    priority: float
    record: CallRecord
    tokens: float = 0.0


class Caller:
    """Makes calls to pools."""

    def __init__(self, client: ChatClient, generator: random.Random) -> None:
        self._client = client
        self._generator = generator

    async def call(
        self, pool: ModelPool, asked: Asked, on_text: OnText, on_attempt: Callable[[], None]
    ) -> Completion:
        """Return the answer of a pool, tried again as often as its endpoint says.

        `on_attempt` is told before each attempt.

        Raises
        ------
        CallError
            If the last attempt fails too, or trying again cannot help.
        """
        loop = asyncio.get_running_loop()
        endpoint, record = pool.endpoint, asked.record
        attempt = 0
        while True:
            before = loop.time()
            await pool.limiter.acquire(asked.priority, asked.tokens)
            server = pool.pick(loop.time())
            server.num_running += 1
            record.waited_s += loop.time() - before
            record.num_attempts += 1
            record.model, record.server = pool.name, server.url
            on_attempt()
            try:
                completion = await self._client.chat(_request(pool, server, asked), on_text)
                server.num_failures = 0
                pool.learn(completion)
                return completion
            except CallError as error:
                attempt += 1
                record.error = error.reason
                _note_failure(server, error, loop.time())
                if not error.again or attempt > endpoint.num_retries:
                    raise
                delay_s = self._delay_s(pool, error, attempt, loop.time())
            finally:
                server.num_running -= 1
                pool.limiter.release()
            await asyncio.sleep(delay_s)
            record.waited_s += delay_s

    def _delay_s(self, pool: ModelPool, error: CallError, attempt: int, now: float) -> float:
        """Return how long to wait before the next attempt: as the server asks, else doubling and spread."""
        endpoint = pool.endpoint
        if error.retry_after_s is not None:
            pool.limiter.pause(error.retry_after_s)
            return error.retry_after_s
        if error.down and any(s.rests_until_s <= now for s in pool.servers):
            return 0.0
        longest = min(endpoint.backoff_s * 2.0 ** (attempt - 1), endpoint.max_backoff_s)
        return longest * (0.5 + self._generator.random() / 2)


def _note_failure(server: _Server, error: CallError, now: float) -> None:
    if error.down:
        server.num_failures += 1
        rest_s = min(_REST_S * 2.0 ** (server.num_failures - 1), _MAX_REST_S)
        server.rests_until_s = now + rest_s


def _request(pool: ModelPool, server: _Server, asked: Asked) -> ChatRequest:
    endpoint = pool.endpoint
    body: dict[str, object] = {"model": pool.sent_name, "messages": asked.messages}
    if endpoint.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    # a field that the user sets to null is one that the server must not see
    asked_for = {**body, **asked.fields, **endpoint.body}
    body = {name: value for name, value in asked_for.items() if value is not None}
    headers = dict(endpoint.headers)
    if endpoint.api_key:
        headers.setdefault("authorization", f"Bearer {endpoint.api_key}")
    return ChatRequest(
        url=f"{server.url}/chat/completions",
        headers=headers,
        body=body,
        connect_s=endpoint.connect_s,
        first_token_s=endpoint.first_token_s,
        stall_s=endpoint.stall_s,
        proxy=server.proxy,
    )


def pools_of(models: Iterable[AgentModel], endpoints: Mapping[str, Endpoint]) -> dict[str, ModelPool]:
    """Return a pool per model that has an endpoint."""
    return {m.name: pool_of(m, endpoints[m.name]) for m in models if m.name in endpoints}
