"""Secrets are not shown, and nothing else is hidden."""

from __future__ import annotations

from argparse import Namespace

import pytest

from loadtest.redaction import SECRETS, redact_options, redact_table, redact_url
from server.parameters import PARAMETERS


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://h/ws", "ws://h/ws"),
        ("ws://user:hidden@h:1/ws", "ws://h:1/ws"),
        ("ws://h/ws?token=hidden&tokens=5&token_bytes=7&tokens_cv=1.5", "ws://h/ws?token=***&tokens=5&token_bytes=7&tokens_cv=1.5"),
        ("ws://h/ws?api_key=hidden&gap_ms=5", "ws://h/ws?api_key=***&gap_ms=5"),
        ("ws://h/ws?Auth=hidden&SIGNATURE=hidden&Secret=hidden", "ws://h/ws?Auth=***&SIGNATURE=***&Secret=***"),
        ("ws://h/ws?password=hidden&passwd=hidden&pwd=hidden&jwt=hidden", "ws://h/ws?password=***&passwd=***&pwd=***&jwt=***"),
        ("ws://h/ws?accessTokens=hidden&x=1", "ws://h/ws?accessTokens=***&x=1"),
        ("ws://h/ws?key=&x=", "ws://h/ws?key=&x="),
    ],
)
def test_a_shown_url_has_no_secret(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert "hidden" not in redact_url(url)


def test_no_parameter_of_the_reference_server_is_taken_for_a_secret() -> None:
    query = "&".join(f"{name}=1" for name in PARAMETERS)
    assert redact_url(f"ws://h/ws?{query}") == f"ws://h/ws?{query}"


def test_shown_options_have_no_secret() -> None:
    options = Namespace(
        bearer_token="hidden", header="Cookie: hidden", channel_key="", server_query="token=hidden&tokens=5", seed=3, origin=""
    )
    shown = redact_options(options, ["bearer_token", "header", "server_query", "seed", "origin"])
    assert shown == {"bearer_token": "***", "header": "***", "server_query": "token=***&tokens=5", "seed": 3, "origin": ""}
    assert redact_options(Namespace(**dict.fromkeys(SECRETS, "")), SECRETS) == dict.fromkeys(SECRETS, "")
    assert "hidden" not in str(redact_options(options, list(vars(options))))


def test_a_shown_table_has_no_secret() -> None:
    table = {
        "token": "delta.text", "max_tokens": 5, "api_key_env": "MY_KEY", "api_key": "hidden",
        "headers": {"X-Plan": "hidden", "X-Env": "{env.K}"},
        "start": [{"type": "auth", "token": "hidden", "password": "hidden"}, {"token": "{env.K}", "prompt": "{prompt}"}],
        "body": {"auth": {"user": "hidden"}, "model": "m"},
    }  # fmt: skip
    shown = redact_table(table)
    assert "hidden" not in str(shown)
    assert (shown["token"], shown["max_tokens"], shown["api_key_env"], shown["body"]["model"]) == ("delta.text", 5, "MY_KEY", "m")
    assert (shown["headers"]["X-Env"], shown["start"][1]) == ("{env.K}", {"token": "{env.K}", "prompt": "{prompt}"})
