"""No key stays in text, whatever it is said in; and what is no key stays as it is."""

import json
import logging
from typing import Any

import pytest

from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause, Failure, SpecError, StoreError
from sightflow.schemas.object_uri import InvalidUriError
from sightflow.schemas.redaction import redact, redact_logs, redact_values, remember, secrets_in
from sightflow.schemas.tables.quarantine import FailedItem, quarantine_rows

AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"s3://AKIAIOSFODNN7EXAMPLE:{AWS_SECRET}@bucket/x.png", "s3://***@bucket/x.png"),
        ("asked http://user:pw@host:80/a@b", "asked http://***@b"),  # rather too much than too little
        ("postgresql+psycopg://me:p@ss:word@host/db", "postgresql+psycopg://***@host/db"),
        ("amqp://user:p%40ss@host", "amqp://***@host"),
        ("tcp://user:pw@scheduler:8786", "tcp://***@scheduler:8786"),
        ("http://a-token@host/", "http://***@host/"),
        ("http:/user:pw@host/spec.yaml", "http:/***@host/spec.yaml"),
        ("id AKIAIOSFODNN7EXAMPLE, ASIAIOSFODNN7EXAMPLE.", "id ***, ***."),
        ("Incorrect API key: sk-proj-abcdef", "Incorrect API key: ***"),
        ("AIzaSyA-1234567890abcdefghijklmnopqrstu", "***"),
        ("ghp_0123456789abcdefghij hf_abcdefghijklmnopqrst", "*** ***"),
        ("Bearer abc.def-123", "Bearer ***"),
        ("Authorization: Basic dXNlcjpwdw==", "Authorization: Basic ***"),
        ("{'Authorization': 'Bearer canary'}", "{'Authorization': 'Bearer ***'}"),
        ("x-goog-api-key: canary", "x-goog-api-key: ***"),
        ("https://h/?X-Amz-Signature=ab&X-Amz-Credential=ID%2F1&n=1", "https://h/?X-Amz-Signature=***&X-Amz-Credential=***&n=1"),
        ("https://h/?X-Amz-Security-Token=a%2Fb", "https://h/?X-Amz-Security-Token=***"),
        ("https://h/v1?key=abc", "https://h/v1?key=***"),
        ("https://h/?n=1&subscription-key=abc", "https://h/?n=1&subscription-key=***"),
        ("https://h/?code=abc&x_auth=ab", "https://h/?code=***&x_auth=***"),
        ('{"api_key": "canary", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("<AWSAccessKeyId>canary</AWSAccessKeyId>", "<AWSAccessKeyId>***</AWSAccessKeyId>"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0", "***"),
    ],
)  # fmt: skip
def test_a_key_is_taken_out(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b/c:d@e.png",
        "file:///home/me@work/a.png",
        "http://host:8080/a@b.png",
        "the bearer of this letter says: a token of love",
        "models.gpt-4o: api_key: a spec holds no keys; put it into the environment",
        "the reply reached the limit of 512 tokens; raise max_new_tokens=1024",
        "a risk-averse task-force, task-1234567",
        "see https://example.org/docs#token",
        "me@example.org wrote it",
    ],
)
def test_what_is_no_key_stays(text: str) -> None:
    assert redact(text) == text


def test_the_secrets_of_this_process_are_known_by_the_names_of_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "canary of the shop")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:canary-password")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:canary-of-the-base@host/db")
    monkeypatch.setenv("TLS_KEY_FILE", "/etc/tls/canary-of-a-path")
    monkeypatch.setenv("MINIO_SECRET", "demo")
    said = (
        "canary of the shop; canary-password; canary-of-the-base; canary%20of%20the%20shop; /etc/tls/canary-of-a-path"
    )
    assert redact(said + "; demo") == "***; ***; ***; ***; /etc/tls/canary-of-a-path; demo"


def test_what_was_given_to_be_kept_is_kept_also_after_many_others() -> None:
    assert remember("canary-of-a-role") == "canary-of-a-role"
    for k in range(200):
        remember(f"renewed-{k:04}")
    assert redact("canary-of-a-role and renewed-0199") == "*** and ***"


def test_errors_hold_no_key() -> None:
    for kind in (SpecError, StoreError, InvalidUriError):
        assert str(kind("http://user:pw@host says no")) == "http://***@host says no"


def test_a_row_of_the_quarantine_holds_no_key() -> None:
    failure = Failure(Cause.MODEL, "refused: sk-canary-1", raw_reply="Authorization: Bearer canary")
    row = quarantine_rows([FailedItem("s3://b/k", "caption", "0", failure)]).row(0, named=True)
    assert (row["message"], row["raw_reply"]) == ("refused: ***", "Authorization: Bearer ***")


def test_the_values_of_a_document_are_redacted_and_its_names_stay() -> None:
    document = {"spec": {"models": [{"api_key": "sk-canary-1"}], "n": 1.5, "none": None}, "at": ("http://u:p@h",)}
    assert redact_values(document) == {
        "spec": {"models": [{"api_key": "***"}], "n": 1.5, "none": None}, "at": ["http://***@h"],
    }  # fmt: skip


def test_a_log_holds_no_key_neither_in_a_message_nor_in_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    redact_logs()
    logger = logging.getLogger("somebody.else")
    try:
        raise ValueError("http://user:canary@host")
    except ValueError:
        logger.exception("asked %s with %s", "http://user:canary@host", {"api_key": "canary"})
    logger.warning("%d of %s", 3, "five")
    assert "canary" not in caplog.text and "ValueError: http://***@host" in caplog.text
    assert caplog.records[-1].args == (3, "five")  # what holds no key stays as it was given


def test_where_a_document_holds_keys_is_told_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "a-long-canary-of-the-shop")
    document: dict[str, Any] = {
        "source": ["s3://ID:SECRET@bucket/x", "s3://bucket/**"],
        "store": {"AKIAIOSFODNN7EXAMPLE": "x", "region": "a-long-canary-of-the-shop"},
        "catalog": "s3://bucket/sk-",
        "models": {"gpt-4o": {"base_url": "https://host/v1?subscription-key=canary"}},
    }
    assert dict(secrets_in(document)) == {
        ("source", 0): "holds a user name or a password",
        ("models", "gpt-4o", "base_url"): "holds a key in its query",
        ("store", "region"): "holds what looks like a key",
        ("store",): "holds what looks like a key in the place of a name",
    }


def test_the_errors_of_pydantic_show_no_value() -> None:
    with pytest.raises(ValueError, match="capability") as raised:
        Enrichment.model_validate({"capability": "canary"})
    assert "canary" not in str(raised.value)
    assert "canary" in json.dumps(raised.value.errors()[0]["input"])  # which the reader of specs decides about
