"""The keys of a role are renewed as long as a process lives; none that a store was ever sent is told."""

import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy

RENEWS = """
import datetime, json, pathlib
count = pathlib.Path({counted!r})
later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=12)  # so soon that they are renewed at once
number = len(count.read_text()) if count.exists() else 0
count.write_text("x" * (number + 1))
print(json.dumps({{
    "Version": 1, "AccessKeyId": f"canary-of-id-{{number:04}}", "SecretAccessKey": "canary-of-the-secret",
    "SessionToken": f"canary-of-token-{{number:04}}", "Expiration": later.isoformat(),
}}))
"""


def test_keys_that_were_renewed_are_told_no_more_than_the_first(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def repeats(http: BaseHTTPRequestHandler, times: int) -> Refuse | None:
        """Refuse, and repeat the keys of all requests so far."""
        signed = http.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        sent.extend((signed, http.headers.get("X-Amz-Security-Token", "")))
        return Refuse(400, f"<Error><Code>Odd</Code><Message>{' and '.join(sent)}</Message></Error>")

    program = tmp_path / "renew.py"
    program.write_text(RENEWS.format(counted=str(tmp_path / "count")))
    config = tmp_path / "config"
    config.write_text(f"[default]\nregion = us-east-1\ncredential_process = {sys.executable} {program}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with S3Proxy(bucket.endpoint, repeats) as proxy:
        store = ObjectStore(endpoint_url=proxy.url, attempts=1)
        told = []
        for _ in range(4):
            with pytest.raises(StoreError) as raised:
                store.read(f"s3://{bucket.name}/a.png")
            told.append(str(raised.value))
    assert len({key for key in sent if key}) > 2, "the keys were not renewed"
    assert all("*** and ***" in text for text in told)
    assert "canary" not in json.dumps(told)
