"""The HTTP side of a server, as an ASGI app: who asks, what they ask for, and which host answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serving.http.body import read_object
from pipeline.serving.http.host import Answer
from pipeline.serving.http.limits import Limits, Refused
from pipeline.serving.http.metrics import CONTENT_TYPE, Metrics
from pipeline.serving.http.users import Users

Call = Callable[..., Awaitable[Any]]
"""Calls a host: its method's name, then the arguments."""
HEALTH, HEALTH_S = "/health", 5.0


class Door:
    """The outermost app: it lets known users in, counts every request and gives an internal error one line."""

    def __init__(self, app: ASGIApp, users: Users, metrics: Metrics) -> None:
        self.app, self.users, self.metrics = app, users, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            user = self.users.named(Request(scope).headers.get("authorization"))
            if user is None and scope["path"] != HEALTH:
                await _refusal(401, "Authorization: no token that is known here; send Bearer TOKEN")(
                    scope, receive, watched
                )
            else:
                scope["user"] = user
                await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "none")
            self.metrics.answered(route, status, time.perf_counter() - began)


class Desk:
    """The routes. A session lives at one host: the number of that host stands before its id.

    Args:
        hosts: calls each host.
        limits: of the size of a body.
        metrics: counts adaptations, and is shown.
    """

    def __init__(self, hosts: Sequence[Call], limits: Limits, metrics: Metrics) -> None:
        self.hosts, self.limits, self.metrics = hosts, limits, metrics
        self._under_way, self._given = [0] * len(hosts), [0] * len(hosts)

    async def health(self, request: Request) -> Response:
        """Whether all hosts have loaded the model."""
        try:
            await asyncio.wait_for(self._all("model"), HEALTH_S)
        except TimeoutError:
            return _refusal(503, "the model is still loading")
        return JSONResponse({"status": "ready"})

    async def show_metrics(self, request: Request) -> Response:
        """The metrics, as text."""
        return Response(self.metrics.text(await self._all("statistics")), media_type=CONTENT_TYPE)

    async def model(self, request: Request) -> Response:
        """What the model is."""
        return _response(await self.hosts[0]("model"))

    async def adapt(self, request: Request) -> Response:
        """A new session, at the host with the fewest adaptations under way, or else in all."""
        body = await self._body(request)
        number = min(range(len(self.hosts)), key=lambda one: (self._under_way[one], self._given[one]))
        self._under_way[number] += 1
        self._given[number] += 1
        try:
            answer = await self.hosts[number]("adapt", request.scope["user"], body)
        finally:
            self._under_way[number] -= 1
        if answer.status == 200:
            self.metrics.adapted(answer.seconds)
            answer.body["session"] = f"{number}.{answer.body['session']}"
        return _response(answer)

    async def predict(self, request: Request) -> Response:
        """The labels and probabilities, values or texts for some rows."""
        return await self._in_session("predict", request)

    async def act(self, request: Request) -> Response:
        """An agent's action."""
        return await self._in_session("act", request)

    async def rewarded(self, request: Request) -> Response:
        """What an agent's action gave."""
        return await self._in_session("rewarded", request)

    async def drop(self, request: Request) -> Response:
        """The end of a session."""
        host, name = self._host_of(request.path_params["session"])
        return _response(await host("drop", request.scope["user"], name))

    async def _in_session(self, method: str, request: Request) -> Response:
        body = await self._body(request)
        if not isinstance(session := body.pop("session", None), str):
            raise Refused(422, "session: is missing; expected the id that POST /adapt gave")
        host, name = self._host_of(session)
        return _response(await host(method, request.scope["user"], name, body))

    def _host_of(self, session: str) -> tuple[Call, str]:
        """An id of no host's goes to the first one, which has no session of it."""
        number, _, name = session.partition(".")
        known = number.isascii() and number.isdigit() and int(number) < len(self.hosts)
        return self.hosts[int(number) if known else 0], name

    async def _body(self, request: Request) -> dict[str, Any]:
        return await read_object(request.headers, request.stream(), self.limits.body_bytes)

    async def _all(self, method: str) -> list[Any]:
        return await asyncio.gather(*(host(method) for host in self.hosts))


def build_app(hosts: Sequence[Call], users: Users, limits: Limits) -> ASGIApp:
    """The app of a server with these hosts."""
    metrics = Metrics()
    desk = Desk(hosts, limits, metrics)
    routes = [
        Route(HEALTH, desk.health, methods=["GET"]),
        Route("/metrics", desk.show_metrics, methods=["GET"]),
        Route("/model", desk.model, methods=["GET"]),
        Route("/sessions/{session}", desk.drop, methods=["DELETE"]),
        *(
            Route(f"/{one.__name__}", one, methods=["POST"])
            for one in (desk.adapt, desk.predict, desk.act, desk.rewarded)
        ),
    ]
    handlers: Any = {
        Refused: _refused,
        HTTPException: _unknown,
        ClientDisconnect: _gone,
        ConnectionError: _unreached,
        Exception: _internal,
    }
    return Door(Starlette(routes=routes, exception_handlers=handlers), users, metrics)


def _response(answer: Answer) -> Response:
    return JSONResponse(answer.body, answer.status)


def _refusal(status: int, line: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": line}, status, headers)


def _refused(request: Request, refused: Refused) -> Response:
    return _refusal(refused.status, refused.line)


def _unknown(request: Request, error: HTTPException) -> Response:
    return _refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}; see docs/serving-http.md")


def _gone(request: Request, error: ClientDisconnect) -> Response:
    return _refusal(400, "body: the connection ended before the body did")


def _unreached(request: Request, error: ConnectionError) -> Response:
    return _refusal(503, f"{error}; try again, and adapt again if the session is gone")


def _internal(request: Request, error: Exception) -> Response:
    return _refusal(500, f"internal error ({type(error).__name__}); the server's log has more")
