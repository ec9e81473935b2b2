"""What an HTTP request gets: a page, a refusal in one sentence, or the way to a WebSocket."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import http
import re
from collections.abc import Sequence
from importlib import resources
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from .access import may_enter
from .counters import Block, Exposition
from .protocol import PATH

ANY_ORIGIN: Final = "*"
RETRY_AFTER_S: Final = 5
# What browsers and clients really send is shorter; parsing longer ones costs more than linear time.
MAX_HANDSHAKE_HEADER: Final = 1024
_HANDSHAKE_HEADERS: Final = (
    "Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol",
)  # fmt: skip
_HOST = re.compile(r"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Refusal(NamedTuple):
    """A request that is not served: why (one of `counters.REFUSALS`), the status, and a sentence for the one who asked."""

    reason: str
    status: int
    sentence: str


def check_handshake(request: Request, origins: Sequence[str], tokens: Sequence[str] = ()) -> Refusal | None:
    """Check what the library does not: the path, the host, absurd headers, the origin and the token. None means go on."""
    if request.path.partition("?")[0] != PATH:
        return Refusal("path", 404, f"nothing is here; the WebSocket is at {PATH}, the page at /")
    headers = request.headers
    hosts = headers.get_all("Host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        return Refusal("host", 400, "a request names exactly one Host, such as example.com:8001")
    for name in _HANDSHAKE_HEADERS:
        for value in headers.get_all(name):
            if len(value) > MAX_HANDSHAKE_HEADER or not value.isascii():
                return Refusal("handshake", 400, f"{name} has at most {MAX_HANDSHAKE_HEADER} ASCII characters")
    asked = headers.get_all("Origin")
    allowed = not asked or ANY_ORIGIN in origins  # without one it is not a browser
    if not allowed and not (len(asked) == 1 and (asked[0] in origins or is_same_origin(asked[0], hosts[0]))):
        return Refusal("origin", 403, "pages of this origin may not connect; the operator can allow it with --origin")
    if not may_enter(headers, tokens):
        return Refusal("token", 401, "a connection needs a token of the operator's, as Authorization: Bearer TOKEN")
    return None


def is_same_origin(origin: str, host: str) -> bool:
    """Whether a page of `origin` came from the server that is asked as `host` (the scheme may end at a proxy)."""
    scheme, _, authority = origin.partition("://")
    default_port = _DEFAULT_PORTS.get(scheme)
    if default_port is None:
        return False
    return authority.lower().removesuffix(default_port) == host.lower().removesuffix(default_port)


def parse_origin(text: str) -> str:
    """Read an operator's `--origin`; raises ValueError with a sentence unless it is one origin, `null` or `*`."""
    if text in (ANY_ORIGIN, "null"):
        return text
    try:
        parts = urlsplit(text)
        plain = bool(parts.scheme and parts.netloc) and text == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
    except ValueError:
        plain = False
    if not plain:
        raise ValueError(f"an origin is scheme://host[:port], null or *, such as https://example.com, not {text!r}")
    return text


class Front:
    """Answers the requests that are not WebSocket handshakes: `/`, `/healthz`, `/metrics`."""

    def __init__(self, block: Block) -> None:
        self.draining = False
        self._exposition = Exposition(block)
        self._page = resources.files(__package__).joinpath("page.html").read_bytes()
        self._inline = " ".join(_hashes(self._page, b"script")), " ".join(_hashes(self._page, b"style"))

    def serve(self, request: Request) -> Response | None:
        """Return the response to a page's request, or None if its path is none of the pages."""
        path = request.path.partition("?")[0]
        if path not in ("/", "/healthz", "/metrics"):
            return None
        if request.method not in ("GET", "HEAD"):
            return self._respond(request, 405, b"only GET and HEAD are known here\n", extra=(("Allow", "GET, HEAD"),))
        if path == "/":
            hosts = request.headers.get_all("Host")
            policy = self._policy(hosts[0] if len(hosts) == 1 else "")
            return self._respond(request, 200, self._page, "text/html; charset=utf-8", extra=(("Content-Security-Policy", policy),))
        if path == "/metrics":
            return self._respond(request, 200, self._exposition.render(), self._exposition.content_type)
        if self.draining:
            return self._respond(request, 503, b"draining\n")
        return self._respond(request, 200, b"ok\n")

    def refuse(self, request: Request, refusal: Refusal) -> Response:
        """Return the response that carries a refusal."""
        extra = {503: (("Retry-After", str(RETRY_AFTER_S)),), 401: (("WWW-Authenticate", "Bearer"),)}.get(refusal.status, ())
        return self._respond(request, refusal.status, (refusal.sentence + "\n").encode(), extra=extra)

    def _respond(
        self,
        request: Request,
        status: int,
        body: bytes,
        content_type: str = "text/plain; charset=utf-8",
        extra: Sequence[tuple[str, str]] = (),
    ) -> Response:
        headers = Headers(
            [
                ("Date", email.utils.formatdate(usegmt=True)),
                ("Connection", "close"),
                ("Content-Length", str(len(body))),
                ("Content-Type", content_type),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                *extra,
            ]
        )
        return Response(status, http.HTTPStatus(status).phrase, headers, b"" if request.method == "HEAD" else body)

    def _policy(self, host: str) -> str:
        # 'self' does not cover ws: in every browser yet, so the host is named too, if it is one.
        socket = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
        scripts, styles = self._inline
        return (
            f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'{socket}; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )


def _hashes(page: bytes, element: bytes) -> list[str]:
    """Return the CSP sources of every inline `<script>` or `<style>` of the page."""
    bodies = re.findall(rb"<" + element + rb">(.*?)</" + element + rb">", page, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'" for body in bodies]
