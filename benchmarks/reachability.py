"""Does a WebSocket server answer at the target's address? Asked once before load starts: a mistake costs one sentence and no run."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI, NegotiationError, WebSocketException
from websockets.typing import Origin, Subprotocol

from loadtest.waiting import WaitingSocket

TIMEOUT_S = 10.0


class UnreachableError(Exception):
    """The target cannot be driven; the message says what was expected, what came and what to do."""


@dataclass(frozen=True, slots=True)
class Access:
    """How somebody else's server lets us in: what its check and the generator both need."""

    headers: tuple[str, ...] = ()
    subprotocols: tuple[str, ...] = ()
    origin: str | None = None
    bearer_token: str | None = None
    insecure: bool = False
    ca_file: Path | None = None

    def options(self) -> list[str]:
        """The generator's command line for it."""
        given = {
            "header": "|".join(self.headers), "subprotocol": ",".join(self.subprotocols), "origin": self.origin,
            "bearer-token": self.bearer_token, "ca-file": self.ca_file,
        }  # fmt: skip
        return [f"--{name}={value}" for name, value in given.items() if value] + (["--insecure"] if self.insecure else [])

    def header_table(self) -> dict[str, str]:
        """Header names and values."""
        table = {name.strip(): value.strip() for name, _, value in (header.partition(":") for header in self.headers)}
        return table | ({"Authorization": f"Bearer {self.bearer_token}"} if self.bearer_token else {})


def with_query(url: str, pairs: Sequence[tuple[str, str]]) -> str:
    """``url`` with more query parameters behind those it has."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query, keep_blank_values=True), *pairs])))


def shown(url: str) -> str:
    """``url`` without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def check_url(url: str, *, http: bool = False) -> None:
    """UnreachableError when ``url`` cannot be a target at all; ``http``: a server that an adapter asks over HTTP may be one."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", *(("http", "https") if http else ())) or not parts.hostname:
        scheme = "wss" if parts.scheme == "https" else "ws"
        like = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else f"ws://{parts.path}"
        expected = "expected a target such as ws://127.0.0.1:8001/ws or wss://host/ws"
        raise UnreachableError(f"{expected}, found {shown(url)!r}; did you mean {like}?")
    try:
        _ = parts.port
    except ValueError:
        raise UnreachableError(f"expected a port from 1 to 65535 in {shown(url)!r}") from None


def check_target(url: str, access: Access = Access(), timeout_s: float = TIMEOUT_S, *, http: bool = False) -> None:
    """Open one WebSocket at ``url`` and close it again; UnreachableError says why that is not possible.

    ``http``: the target may also be one that is asked over HTTP. Of those only the connection is tried: what there is to ask, and
    whether it is answered, the generator finds out before its load begins.
    """
    check_url(url, http=http)
    name = shown(url)
    try:
        context = _tls(access) if url.startswith(("wss:", "https:")) else None
        if url.startswith("http"):
            with socket.create_connection(_address(url), timeout_s) as sock:
                if context is not None:
                    context.wrap_socket(sock, server_hostname=urlsplit(url).hostname).close()
            return
        # A socket of our own keeps the library from following redirects: the generator does not follow them either.
        with socket.create_connection(_address(url), timeout_s) as sock, WaitingSocket(
            url, sock=sock, additional_headers=access.header_table(), origin=Origin(access.origin) if access.origin else None,
            subprotocols=[Subprotocol(one) for one in access.subprotocols] or None, ssl=context, open_timeout=timeout_s, close_timeout=1,
            proxy=None, compression=None, user_agent_header=None,
        ):  # fmt: skip
            pass
    except InvalidURI as error:
        raise UnreachableError(f"{name} is no WebSocket URL: {error}") from None
    except ssl.SSLCertVerificationError as error:  # a ValueError too: before those
        advice = "name its authority (--ca-file) or do without the check (--insecure)"
        raise UnreachableError(f"the certificate of {name} is not trusted ({error.verify_message}); {advice}") from None
    except (InvalidStatus, ValueError) as error:
        refused = error if isinstance(error, InvalidStatus) else error.__cause__
        if not isinstance(refused, InvalidStatus):
            raise
        raise UnreachableError(_status(name, refused.response.status_code, bytes(refused.response.body or b""))) from None
    except NegotiationError as error:
        raise UnreachableError(f"{name} answered with another subprotocol or extension than was asked for: {error}") from None
    except InvalidMessage:
        raise UnreachableError(
            f"{name} answered with something that is no HTTP; is it a WebSocket server, and is ws:// or wss:// right?"
        ) from None
    except InvalidHandshake as error:
        raise UnreachableError(f"{name} answered 101, but not with a valid WebSocket handshake: {error}") from None
    except socket.gaierror:
        raise UnreachableError(f"the host {urlsplit(url).hostname!r} of {name} has no address; is the name right?") from None
    except ConnectionRefusedError:
        raise UnreachableError(f"nothing listens at {name} (connection refused); is the server running, and the port right?") from None
    except ssl.SSLError as error:
        raise UnreachableError(f"no TLS with {name} ({error.reason or error}); does it speak ws:// and not wss://?") from None
    except TimeoutError:
        raise UnreachableError(f"{name} did not answer the WebSocket handshake within {timeout_s:g} s; is it a WebSocket server?") from None
    except (OSError, WebSocketException) as error:
        raise UnreachableError(f"no connection to {name}: {getattr(error, 'strerror', None) or error}") from None


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme in ("wss", "https") else 80)


def _status(name: str, status: int, body: bytes) -> str:
    advice = {
        200: "an ordinary web page is there; is the path right? (the reference server's is /ws)",
        400: "does it take the query parameters of this scenario?",
        401: "it wants credentials (--bearer-token, --header)",
        403: "it may refuse this origin (--origin) or want credentials (--bearer-token, --header)",
        404: "is the path right? (the reference server's is /ws)",
        503: "it may be full, or shutting down",
    }.get(status, "is it a WebSocket server?")
    if 300 <= status < 400:
        advice = "it redirects; give the address it redirects to"
    # What a target says goes to a terminal: no escape sequence of its making may.
    said = "".join(one if one.isprintable() else "\ufffd" for one in " ".join(body.decode("utf-8", "replace").split()))
    said = f" ({said[:120]})" if said and not said.startswith("<") else ""
    return f"expected {name} to answer 101, and it answered {status}{said}: {advice}"


def _tls(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(access.ca_file) if access.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise UnreachableError(f"cannot read certificates from {access.ca_file}: {error}") from None
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
