"""What is taken out of a text that goes to others, and what stays."""

from __future__ import annotations

import json

import pytest

from argosy_common.redaction import redact, redact_data

BODY = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgabcdefghijklmnop"
PEM = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n{BODY[:20]}==\n-----END PRIVATE KEY-----\n"
SECRET = "AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        PEM.replace("PRIVATE", "EC PRIVATE"),
        f"before {PEM} between {PEM} after",
        PEM[: -len("-----END PRIVATE KEY-----\n")],  # its end was cut off
        PEM[len("-----BEGIN PRIVATE KEY-----\n") :],  # its beginning was
        PEM.replace("\n", "\r\n"),
        json.dumps({"log": f"it said {PEM}"}),
    ],
)
def test_a_private_key_goes_whole_or_in_parts(text: str) -> None:
    assert BODY[:16] not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        f"argosy-device join https://c:8444 --token 65a67278.{SECRET} --pin sha256:00",
        f"65a67278.{SECRET}",
        f"token={SECRET} next=1",
        f'"join_token": "{SECRET}"',
        f"password = '{SECRET}'",
        f"ARGOSY_TOKEN={SECRET}",
        f"db.password: {SECRET}",
        f"--api-key {SECRET}",
        f"Authorization: {SECRET}",
        f"{{'secret_key': '{SECRET}'}}",
        f"postgresql+psycopg://argosy:{SECRET}@db.example/argosy",
    ],
)
def test_what_is_called_a_secret_goes(text: str) -> None:
    told = redact(text)
    assert SECRET not in told
    assert "…" in told


@pytest.mark.parametrize(
    "text",
    [
        "04:07:50 INFO    run.started run=1 app=digits-numpy pid=8417",
        "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgI\n-----END CERTIFICATE-----\n",
        "mqtts://10.0.0.5:8883 connected",
        f"{'ab' * 32} sha256:{'0' * 64}",
        "postgresql+psycopg://argosy@db.example/argosy",
        "the token was used",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert redact(text) == text


def test_the_id_of_a_token_stays_since_it_tells_which_it_was() -> None:
    assert redact(f"join 65a67278.{SECRET}").startswith("join 65a67278.…")


def test_in_data_the_names_decide_and_texts_are_read_too() -> None:
    data = {"node_config": {"db_password": 7, "path": "/srv"}, "said": [f"x {PEM}", 3, None, True], "Token": ["a"]}
    assert redact_data(data) == {
        "node_config": {"db_password": "…", "path": "/srv"},
        "said": ["x …\n", 3, None, True],
        "Token": "…",
    }
