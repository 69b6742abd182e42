"""Holds one model and the sessions of its users, and answers requests with a status and a body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from pipeline.core.failures import PipelineError
from pipeline.engine.clock import Monotonic
from pipeline.serving.agent import Actor
from pipeline.serving.http.answers import adapted, answered, described, packed
from pipeline.serving.http.body import fields
from pipeline.serving.http.limits import Limits, Refused
from pipeline.serving.http.sessions import Clock, Sessions
from pipeline.serving.learner import Learner


class Answer(NamedTuple):
    """What a request is answered with; ``seconds`` is how long the model computed for it."""

    status: int
    body: dict[str, Any]
    seconds: float = 0.0


class _Turn(NamedTuple):
    """A session's value. An actor changes with each action, so its requests come one after the other."""

    value: Any
    lock: asyncio.Lock


class Host:
    """One replica's model. Its methods are called from one event loop and compute in threads.

    Every answer is a value, also that to a bad request, so that it travels between processes.

    Args:
        learner: the model; adaptation leaves it as it is, so that all sessions share its theta.
        about: what ``GET /model`` says beside what the learner knows.
        limits: of the sessions and of one request.
        threads: how many requests are computed at a time.
        clock: what idle time is measured by.
    """

    def __init__(
        self, learner: Learner, about: Mapping[str, Any], limits: Limits, threads: int, clock: Clock | None = None
    ) -> None:
        self.learner, self.limits = learner, limits
        self.about = {**about, **described(learner)}
        self.sessions = Sessions(limits, clock or Monotonic())
        # One thread of torch for each request: several that share the cores wait for each other.
        self._pool = ThreadPoolExecutor(threads, "compute", torch.set_num_threads, (1,))

    async def model(self) -> Answer:
        """What the model is."""
        return Answer(200, self.about)

    async def statistics(self) -> dict[str, Any]:
        """How many sessions there are, their bytes, and how many were evicted for each reason."""
        self.sessions.end_idle()
        return {"sessions": len(self.sessions), "bytes": self.sessions.bytes, "evicted": dict(self.sessions.evicted)}

    async def adapt(self, owner: str, body: Mapping[str, Any]) -> Answer:
        """Learn a support set, or an agent's episodes; the answer names the new session."""

        async def work() -> dict[str, Any]:
            value, size = await self._compute(lambda: self._adapted(body))
            return {"session": self.sessions.add(owner, _Turn(value, asyncio.Lock()), size)}

        return await _timed(work)

    async def predict(self, owner: str, name: str, body: Mapping[str, Any]) -> Answer:
        """Answer the rows ``query_x`` by what the session has learned."""

        async def work() -> dict[str, Any]:
            (x,) = fields(body, ("query_x",))
            value = self.sessions.get(owner, name).value
            return await self._compute(lambda: answered(self.learner, value, x, self.limits))

        return await _timed(work)

    async def act(self, owner: str, name: str, body: Mapping[str, Any]) -> Answer:
        """The action of the session's agent for one observation."""

        async def work() -> dict[str, Any]:
            (observation,) = fields(body, ("observation",))
            turn = self._agent(owner, name)
            async with turn.lock:
                action = await self._compute(lambda: turn.value.act(observation))
            return {"action": action if isinstance(action, int) else action.tolist()}

        return await _timed(work)

    async def rewarded(self, owner: str, name: str, body: Mapping[str, Any]) -> Answer:
        """Tell the session's agent what its last action gave."""

        async def work() -> dict[str, Any]:
            reward, done = fields(body, ("reward",), ("done",))
            turn = self._agent(owner, name)
            if not isinstance(done, bool | None):
                raise Refused(422, f"done: {done!r}; expected true or false")
            async with turn.lock:
                await self._compute(lambda: turn.value.rewarded(reward, done=bool(done)))
            return {}

        return await _timed(work)

    async def drop(self, owner: str, name: str) -> Answer:
        """End a session."""

        async def work() -> dict[str, Any]:
            self.sessions.drop(owner, name)
            return {}

        return await _timed(work)

    def _adapted(self, body: Mapping[str, Any]) -> tuple[Any, int]:
        value = adapted(self.learner, body, self.limits)
        value.adapted, size = packed(value.adapted, self.learner.theta)
        return value, size

    def _agent(self, owner: str, name: str) -> _Turn:
        turn: _Turn = self.sessions.get(owner, name)
        if not isinstance(turn.value, Actor):
            raise Refused(422, "session: this model is no agent; POST /predict instead")
        return turn

    async def _compute(self, work: Callable[[], Any]) -> Any:
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.wait_for(running, self.limits.compute_s)
        except TimeoutError:
            seconds = self.limits.compute_s
            raise Refused(504, f"no answer in {seconds} s; send fewer rows, or try again later") from None


async def _timed(work: Callable[[], Any]) -> Answer:
    """The answer to a request, and what it cost."""
    began = time.perf_counter()
    try:
        body = await work()
    except Refused as refused:
        return Answer(refused.status, {"error": refused.line}, time.perf_counter() - began)
    except PipelineError as error:
        return Answer(422, {"error": str(error)}, time.perf_counter() - began)
    return Answer(200, body, time.perf_counter() - began)
