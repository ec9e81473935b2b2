"""Options: every wrong one has its sentence, right ones become settings, and no secret is shown."""

from __future__ import annotations

import argparse
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from loadtest.arrivals import StopPlan
from loadtest.options import add_options
from loadtest.population import Person
from loadtest.redaction import SECRETS
from loadtest.schedule import SchedulePlan
from loadtest.settings import (
    Settings,
    SettingsError,
    Step,
    check_settings,
    parse_target,
    target_url,
)
from server.parameters import PARAMETERS

HOST = "ws://127.0.0.1:8001/ws"


class LocustLike(argparse.ArgumentParser):
    """Takes what Locust's parser takes beyond argparse's own."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        for name in ("is_secret", "include_in_web_ui", "is_required"):
            options.pop(name, None)
        return super().add_argument(*names, **options)


def parsed(*options: str) -> argparse.Namespace:
    parser = LocustLike(allow_abbrev=False)
    add_options(parser)
    return parser.parse_args(list(options))


def settings(*options: str, host: str | None = HOST) -> Settings:
    return check_settings(parsed(*options), host)


# -- the options themselves --------------------------------------------------------------------------------------------


def test_every_option_fits_locusts_web_form() -> None:
    parser = LocustLike(add_help=False)
    add_options(parser)
    actions = parser._actions
    assert len(actions) > 40
    for action in actions:
        (name,) = action.option_strings
        assert re.fullmatch(r"--[a-z]+(-[a-z]+)*", name)
        assert action.help
        assert not isinstance(action.default, list)
        assert action.nargs in (None, 0)
    assert set(SECRETS) <= {action.dest for action in actions}


def test_the_defaults_are_settings() -> None:
    made = settings()
    assert (made.url, made.window, made.open_loop, made.adapter) == (HOST, 1, False, "typewriter")
    assert made.stop == StopPlan(0.0, tokens=(2, 8))
    assert (made.speech.prompts, made.people, made.headers, made.steps, made.source_addresses) == ((), (), (), (), ())
    assert made.tls is made.origin is made.run_dir is made.scenario_file is None
    assert (made.uri.host, made.uri.port, made.uri.secure) == ("127.0.0.1", 8001, False)
    assert made.expected_gap_s == 0
    assert made.scrape


def test_options_become_settings(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("a\nb\n")
    (tmp_path / "people").write_text("url\nws://other/ws\n")
    made = settings(
        "--loop", "open", "--rate", "2.5", "--arrivals", "poisson", "--when-full", "drop", "--think-time", "0.5",
        "--conversations-per-connection", "3", "--stop-share", "0.25", "--stop-after-ms", "100-300", "--idle-share", "1",
        "--gap-ms", "20", "--prompts", f"{tmp_path}/prompts", "--users-file", f"{tmp_path}/people", "--header", "X-A: 1 | X-B:2:3",
        "--bearer-token", "abc", "--origin", "http://here", "--subprotocol", "a, b,", "--steps", "10:8, 50:2.5",
        "--source-address", "127.0.0.2, ::1", "--run-dir", "out", "--scenario-file", "s.json", "--no-scrape", "--window", "8",
    )  # fmt: skip
    assert (made.open_loop, made.drop_when_full, made.think_time_s) == (True, True, 0.5)
    assert made.schedule == SchedulePlan("poisson", 2.5, length_s=60.0)
    assert made.stop == StopPlan(0.25, after_ms=(100, 300))
    assert (made.speech.prompts, made.people) == (("a", "b"), (Person("ws://other/ws"),))
    assert made.headers == (("X-A", "1"), ("X-B", "2:3"), ("Authorization", "Bearer abc"))
    assert (made.origin, made.subprotocols, made.source_addresses) == ("http://here", ("a", "b"), ("127.0.0.2", "::1"))
    assert made.steps == (Step(10, 8.0), Step(50, 2.5))
    assert (made.run_dir, made.scenario_file, made.scrape, made.window) == (Path("out"), Path("s.json"), False, 8)
    assert made.expected_gap_s == 0.02


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--arrivals", "workload"], "expected --workload chat or code with --arrivals workload, got none"),
        (["--arrivals", "trace"], "expected --trace-file with --arrivals trace, got none"),
        (["--trace-file", "x"], "expected --loop open --arrivals trace with --trace-file, or it would not be replayed"),
        (
            ["--loop", "open", "--arrivals", "trace", "--trace-file", "/no/such"],
            "cannot read the trace /no/such: No such file or directory",
        ),
        (["--bytes-per-token", "0"], "expected --bytes-per-token above 0, got 0"),
        (["--rate", "0"], "expected --rate above 0, got 0"),
        (["--rate", "0", "--rate-profile", "ramp"], "expected --peak-rate above 0, got 0"),
        (
            ["--rate", "9", "--rate-profile", "sine", "--peak-rate", "8"],
            "expected --peak-rate of at least the 9 of --rate with --rate-profile sine, got 8",
        ),
        (["--rate-profile", "spike", "--profile-length", "0"], "expected --profile-length above 0, got 0"),
        (["--burstiness", "0"], "expected --burstiness above 0, got 0"),
        (["--patience", "-1"], "expected --patience of at least 0, got -1"),
        (["--window", "-1"], "expected --window from 0 to 1024, got -1"),
        (["--window", "1025"], "expected --window from 0 to 1024, got 1025"),
        (["--tokens", "-5"], "expected --tokens of at least 0, got -5"),
        (["--gap-ms", "-2"], "expected --gap-ms of at least 0, got -2"),
        (["--gap-ms", "nan"], "expected --gap-ms of at least 0, got nan"),
        (["--ttft-ms", "inf"], "expected --ttft-ms of at least 0, got inf"),
        (["--rate", "inf"], "expected --rate above 0, got inf"),
        (["--think-time", "-1"], "expected --think-time of at least 0, got -1"),
        (["--conversations-per-connection", "-1"], "expected --conversations-per-connection of at least 0, got -1"),
        (["--stop-share", "1.5"], "expected --stop-share to be a share from 0 to 1, got 1.5"),
        (["--stop-share", "nan"], "expected --stop-share to be a share from 0 to 1, got nan"),
        (["--idle-share", "-0.1"], "expected --idle-share to be a share from 0 to 1, got -0.1"),
        (["--stop-after-tokens", "a-b"], "expected --stop-after-tokens as a range such as 2-8, got 'a-b'"),
        (["--stop-after-tokens", ""], "expected --stop-after-tokens as a range such as 2-8, got ''"),
        (["--stop-after-tokens", "8-2"], "expected --stop-after-tokens with the smaller number first, got '8-2'"),
        (["--stop-after-ms", "-5"], "expected --stop-after-ms as a range such as 2-8, got '-5'"),
        (["--stop-after-ms", "300-100"], "expected --stop-after-ms with the smaller number first, got '300-100'"),
        (["--connect-rate", "-1"], "expected --connect-rate of at least 0, got -1"),
        (["--reconnect-backoff", "nan"], "expected --reconnect-backoff of at least 0, got nan"),
        (["--prompt-bytes", "0"], "expected --prompt-bytes from 1 to 65536, got 0"),
        (["--connect-timeout", "0"], "expected --connect-timeout above 0, got 0"),
        (["--stall-timeout", "-3"], "expected --stall-timeout above 0, got -3"),
        (["--max-message-bytes", "0"], "expected --max-message-bytes of at least 1, got 0"),
        (["--warm-up", "-1"], "expected --warm-up of at least 0, got -1"),
        (["--seed", "-1"], "expected --seed of at least 0, got -1"),
        (["--metrics-port", "65536"], "expected --metrics-port from 0 to 65535, got 65536"),
        (["--steps", "10"], "expected --steps as users:seconds such as 10:8,50:8, got '10'"),
        (["--steps", "10:8,0:5"], "expected --steps as users:seconds such as 10:8,50:8, got '0:5'"),
        (["--steps", "10:0"], "expected --steps as users:seconds such as 10:8,50:8, got '10:0'"),
        (["--header", "X-A"], "expected --header as 'Name: value', got one without a name or a colon"),
        (["--header", ": x"], "expected --header as 'Name: value', got one without a name or a colon"),
        (["--header", "Two Words: x"], "expected --header as 'Name: value', got one without a name or a colon"),
        (["--header", "X-A: a\r\nb"], "expected --header X-A without line breaks, got some"),
        (["--bearer-token", "secret\nX-Evil: 1"], "expected --bearer-token without line breaks, got some"),
        (["--origin", "http://a\r\n"], "expected --origin without line breaks, got some"),
        (["--source-address", "127.0.0.2,here"], "expected --source-address as local IP addresses separated by commas, got 'here'"),
    ],
)
def test_a_wrong_option_has_its_sentence(options: list[str], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(*options)
    assert str(caught.value) == sentence
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        # What comes from the web form has not been through argparse.
        ("window", "many", "expected a number for --window, got 'many'"),
        ("window", None, "expected a number for --window, got None"),
        ("seed", float("inf"), "expected a number for --seed, got inf"),
        ("rate", "", "expected a number for --rate, got ''"),
        ("loop", "half", "expected --loop to be one of closed, open, got 'half'"),
        ("arrivals", "", "expected --arrivals to be one of constant, poisson, gamma, workload, trace, got ''"),
        ("when_full", "wait", "expected --when-full to be one of late, drop, got 'wait'"),
    ],
)
def test_a_wrong_value_of_the_web_form_has_its_sentence(name: str, value: Any, sentence: str) -> None:
    options = parsed()
    setattr(options, name, value)
    with pytest.raises(SettingsError, match=f"^{re.escape(sentence)}$"):
        check_settings(options, HOST)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the prompt file"):
        settings("--prompts", str(tmp_path / "none"))
    (tmp_path / "people").write_text("url\nws://fine/ws\nws://bad:port/ws\n")
    with pytest.raises(SettingsError, match=r"expected a ws:// or wss:// URL, got 'ws://bad:port/ws'"):
        settings("--users-file", str(tmp_path / "people"))


# -- the target --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        (None, "expected a target such as -H ws://127.0.0.1:8001/ws, got none"),
        ("", "expected a target such as -H ws://127.0.0.1:8001/ws, got none"),
        ("http://h:1/ws", "expected a ws:// or wss:// URL, got 'http://h:1/ws'; try ws://h:1/ws"),
        ("https://h/ws?a=1", "expected a ws:// or wss:// URL, got 'https://h/ws?a=1'; try wss://h/ws?a=1"),
    ],
)
def test_no_target(host: str | None, sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(sentence)}$"):
        settings(host=host)


@pytest.mark.parametrize(
    "host", ["localhost:8001/ws", "127.0.0.1", "ftp://h/ws", "ws://", "ws://h:99999/ws", "ws://h:x/ws", "ws://[::1/ws"]
)
def test_what_is_no_websocket_url(host: str) -> None:
    with pytest.raises(SettingsError, match=r"^expected a ws:// or wss:// URL, got '.+': .+"):
        settings(host=host)


@pytest.mark.parametrize(
    ("options", "host", "url"),
    [
        ([], "ws://h", "ws://h/"),
        ([], "ws://h/ws#part", "ws://h/ws"),
        (["--tokens", "5"], "ws://h/ws", "ws://h/ws?tokens=5"),
        (["--gap-ms", "0"], "ws://h/ws", "ws://h/ws?gap_ms=0"),
        (["--window", "0"], "ws://h/ws", "ws://h/ws?window=0"),
        (["--server-query", "gaps=gamma&seed=4"], "ws://h/ws?a=b", "ws://h/ws?a=b&gaps=gamma&seed=4"),
        (["--tokens", "5", "--ttft-ms", "1.5", "--window", "8"], "wss://h/ws?k=", "wss://h/ws?k=&tokens=5&ttft_ms=1.5&window=8"),
        # Neither rounded nor with an exponent: the server reads plain decimals.
        (["--gap-ms", "16.6666667"], "ws://h/ws", "ws://h/ws?gap_ms=16.6666667"),
        (["--gap-ms", "0.00002"], "ws://h/ws", "ws://h/ws?gap_ms=0.00002"),
        (["--ttft-ms", "12345678"], "ws://h/ws", "ws://h/ws?ttft_ms=12345678"),
    ],
)
def test_what_is_asked_of_a_server_is_in_the_query(options: list[str], host: str, url: str) -> None:
    assert target_url(host, parsed(*options)) == url
    for pair in url.partition("?")[2].split("&"):
        name, _, value = pair.partition("=")
        if name in PARAMETERS:
            PARAMETERS[name].parse(value)


def test_a_target_with_credentials_is_read() -> None:
    uri = parse_target("wss://user:pass@h/ws")
    assert (uri.host, uri.port, uri.secure, uri.user_info) == ("h", 443, True, ("user", "pass"))


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_certificates_are_verified_unless_told_not_to(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    strict = settings("--ca-file", str(tmp_path / "ca.pem"), host="wss://h/ws").tls
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(strict.get_ca_certs()) == 1
    loose = settings("--insecure", host="wss://h/ws").tls
    assert loose is not None
    assert (loose.verify_mode, loose.check_hostname) == (ssl.CERT_NONE, False)
    assert settings("--insecure").tls is None


@pytest.mark.parametrize("contents", [None, "", "not a certificate"])
def test_authorities_that_cannot_be_read(tmp_path: Path, contents: str | None) -> None:
    path = tmp_path / "ca.pem"
    if contents is not None:
        path.write_text(contents)
    with pytest.raises(SettingsError, match=f"^cannot read the authorities in {re.escape(str(path))}: "):
        settings("--ca-file", str(path), host="wss://h/ws")


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_the_whole_help_lists_every_option_of_ours() -> None:
    root = Path(__file__).parents[2]
    parser = LocustLike(add_help=False)
    add_options(parser)
    run = subprocess.run([sys.executable, "-m", "loadtest", "--help"], capture_output=True, text=True, timeout=60, check=True, cwd=root)
    names = {action.option_strings[0] for action in parser._actions}
    assert len(names) > 40
    assert [name for name in sorted(names) if name not in run.stdout] == []
