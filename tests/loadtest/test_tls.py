"""TLS that is not as it must be, seen by the engine, by the check before a run, and by the server: refused, with the reason."""

from __future__ import annotations

import datetime
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from benchmarks.reachability import Access, UnreachableError, check_target
from tests.loadtest.hostile import HostileServer, after_prompt, text
from tests.server.raw_client import handshake, heard

YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


Trusting = tuple[Any, Callable[[], ssl.SSLContext]]


def speak_only(context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    """One version of TLS, however old, with any cipher."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is the point
        context.minimum_version = context.maximum_version = version


def context_of(leaf: trustme.LeafCert, newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> ssl.SSLContext:
    """A server's context; one that may speak old versions speaks them with any cipher."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if newest is not ssl.TLSVersion.MAXIMUM_SUPPORTED:
        speak_only(context, newest)
    leaf.configure_cert(context)
    return context


CASES = {
    # What is wrong, and what both the engine and the check before a run say of it.
    "another host's certificate": ("certificate is not valid for '127.0.0.1'", "certificate is not valid for '127.0.0.1'"),
    "an expired certificate": ("certificate has expired", "certificate has expired"),
    "an unknown authority": ("unable to get local issuer certificate", "unable to get local issuer certificate"),
    "TLS 1.1": ("version", "no TLS with"),
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path]]:
    """The URL of each server, and a file with the authority that they should have had."""
    authority = trustme.CA()
    good = authority.issue_cert("127.0.0.1")
    contexts = {
        "another host's certificate": context_of(authority.issue_cert("other.example")),
        "an expired certificate": context_of(authority.issue_cert("127.0.0.1", not_after=YESTERDAY)),
        "an unknown authority": context_of(trustme.CA().issue_cert("127.0.0.1")),
        "TLS 1.1": context_of(good, ssl.TLSVersion.TLSv1_1),
        "good": context_of(good),
    }
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    script = {"ws": after_prompt(text("a"), text("_end_"))}
    with ExitStack() as stack:
        yield {name: stack.enter_context(HostileServer(script, tls=one)).url("ws", "wss") for name, one in contexts.items()}, path


@pytest.fixture(scope="module")
def found(driver: Any, targets: tuple[dict[str, str], Path]) -> dict[str, Any]:
    urls, authority = targets
    cases = [{"url": url, "ca_file": str(authority)} for url in urls.values()]
    results = dict(zip(urls, driver.ask(cases), strict=True))
    assert driver.errors() == ""
    return results


@pytest.mark.parametrize("name", CASES)
def test_the_engine_names_what_is_wrong(found: dict[str, Any], name: str) -> None:
    result = found[name]
    assert result["connect_error"] == "tls_error"
    assert CASES[name][0] in result["detail"].lower() or CASES[name][0] in result["detail"]
    (row,) = result["connections"]
    assert (row["outcome"], row["error"]) == ("failed", "tls_error")


def test_the_engine_takes_what_is_right(found: dict[str, Any]) -> None:
    assert found["good"]["conversations"][0]["outcome"] == "completed"


@pytest.mark.parametrize("name", CASES)
def test_before_a_run_it_is_a_sentence(targets: tuple[dict[str, str], Path], name: str) -> None:
    urls, authority = targets
    with pytest.raises(UnreachableError) as refused:
        check_target(urls[name], Access(ca_file=authority))
    assert CASES[name][1] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def secure(server_process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusting]:
    authority = trustme.CA()
    chain = tmp_path_factory.mktemp("chain") / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(chain))
    server = server_process("--certfile", str(chain), "--tokens", "1", "--gap-ms", "0", "--open-timeout", "2")

    def trusting() -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    yield server, trusting
    assert "Traceback" not in server.log()
    server.close()


def speak(server: Any, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    try:
        return context.wrap_socket(plain, server_hostname="127.0.0.1")
    except BaseException:
        plain.close()
        raise


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_the_server_refuses_old_versions(secure: Trusting, version: ssl.TLSVersion) -> None:
    server, trusting = secure
    context = trusting()
    speak_only(context, version)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        speak(server, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_server_speaks_new_ones_without_compression(secure: Trusting, version: ssl.TLSVersion) -> None:
    server, trusting = secure
    context = trusting()
    context.minimum_version = context.maximum_version = version
    with speak(server, context) as sock:
        assert sock.compression() is None
        name, _, bits = sock.cipher() or ("", "", 0)
        assert bits >= 128
        assert not any(weak in name for weak in ("RC4", "3DES", "NULL", "EXP", "MD5"))
        sock.sendall(handshake().encode())
        assert sock.recv(20).startswith(b"HTTP/1.1 101")


def test_garbage_in_the_tls_handshake_is_dropped(secure: Trusting) -> None:
    server, trusting = secure
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(256)) * 4, b"\x16\x03\x01\x00\xff"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
            plain.sendall(data)
            assert not heard(plain).startswith(b"HTTP")
    with speak(server, trusting()) as sock:
        sock.sendall(handshake().encode())
        assert sock.recv(20).startswith(b"HTTP/1.1 101")
