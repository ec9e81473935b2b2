"""Who may start an answer on the FastAPI stack, and its requests and responses in the words of `front`."""

from __future__ import annotations

import dataclasses
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import Request, Response, WebSocket
from websockets.datastructures import Headers
from websockets.http11 import Request as PlainRequest
from websockets.http11 import Response as PlainResponse

from .front import Refusal, check_handshake
from .parameters import ParameterError, Plan
from .protocol import PATH
from .stack import Stack, choose_plan

OWN: Final = ("prompt", "after", "wait_s")
"""Names of the query that are not the plan's."""


def peer(client: Any) -> tuple[str, int]:
    """Who asks: address and port."""
    return ("unknown", 0) if client is None else (client.host, client.port)


def target(asked: Request | WebSocket) -> str:
    """Path and query."""
    return asked.url.path + (f"?{asked.url.query}" if asked.url.query else "")


def as_plain(request: Request) -> PlainRequest:
    """The request as the front knows them."""
    return PlainRequest(target(request), Headers(request.headers.items()), request.method)


def respond(plain: PlainResponse) -> Response:
    """The front's response as one of the framework."""
    # Content-Length and Connection are the framework's to say.
    headers = {name: value for name, value in plain.headers.raw_items() if name not in ("Content-Length", "Connection", "Date")}
    return Response(bytes(plain.body), plain.status_code, headers)


def queried(request: Request, name: str) -> str:
    """One name of the query; empty where it is not there."""
    return parse_qs(request.url.query, max_num_fields=64).get(name, [""])[0]


def admit(stack: Stack, request: Request, tokens: int | None = None) -> Plan | Response:
    """Return the plan of a request that starts an answer, or the response that refuses it; ``tokens`` where the query says none."""
    # The rules for who may open a conversation are the handshake's, at another path.
    asked = as_plain(request)
    refusal = check_handshake(PlainRequest(PATH, asked.headers), stack.settings.origins, stack.settings.tokens)
    if refusal is not None:
        return refuse(stack, request, refusal)
    parts = [part for part in request.url.query.split("&") if part.partition("=")[0] not in OWN]
    if tokens is not None and not any(part.startswith("tokens=") for part in parts):
        parts.append(f"tokens={tokens}")
    query = "&".join(part for part in parts if part)
    try:
        plan = dataclasses.replace(choose_plan(query, stack.settings), window=0)
    except ParameterError as error:
        return refuse(stack, request, Refusal("query", 400, str(error)))
    refusal = stack.refusal(peer(request.client)[0])
    return plan if refusal is None else refuse(stack, request, refusal)


def refuse(stack: Stack, request: Request, refusal: Refusal) -> Response:
    """Count a refusal and say it."""
    stack.count_refusal(refusal, peer(request.client)[0])
    return respond(stack.front.refuse(as_plain(request), refusal))
