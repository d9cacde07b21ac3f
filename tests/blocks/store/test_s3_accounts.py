"""What S3 is asked for beside keys: a role of another account, who pays, the key that encrypts, a profile."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreRefusal
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy

ROLE = "arn:aws:iam::123456789012:role/reader"
Seen = list[tuple[str, dict[str, str]]]


@pytest.fixture(autouse=True)
def _bodies_of_a_known_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy hands on no others: a checksum that follows a body is sent in chunks."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")


def noting(seen: Seen) -> Callable[[BaseHTTPRequestHandler, int], None]:
    def spoil(http: BaseHTTPRequestHandler, _: int) -> None:
        seen.append((http.command, {name.lower(): value for name, value in http.headers.items()}))

    return spoil


def use(store: ObjectStore, bucket: str) -> None:
    """Read and write by our own requests and by those of delta-rs and polars."""
    uri = f"s3://{bucket}/in/a.png"
    store.write(uri, b"x")
    assert store.read(uri) == b"x" and store.inventory([uri]).height == 1 and store.gone([uri], {}) == []
    catalog = Catalog(uri=f"s3://{bucket}/catalog", store=store)
    catalog.check_writable()
    catalog.open_or_create("runs")
    assert catalog.scan("runs").collect().is_empty()


def test_a_role_of_another_account_is_taken_on_for_sources_and_catalogs(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, list[str]]] = []
    seen: Seen = []

    def note(http: BaseHTTPRequestHandler, _: int) -> None:
        asked.append(parse_qs(http.sent.decode()))  # type: ignore[attr-defined]

    with S3Proxy(bucket.endpoint, note) as sts, S3Proxy(bucket.endpoint, noting(seen)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        use(ObjectStore(endpoint_url=proxy.url, role_arn=ROLE, role_external_id="from-the-owner"), bucket.name)
    assert [(each["RoleArn"], each["ExternalId"]) for each in asked] == [([ROLE], ["from-the-owner"])], "asked once"
    assert len(seen) > 8 and all("x-amz-security-token" in headers for _, headers in seen)
    assert not any("Credential=testing/" in headers["authorization"] for _, headers in seen)


def test_a_role_that_is_refused_stops_the_run_with_its_cause(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = Refuse(403, "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>")
    with S3Proxy(bucket.endpoint, lambda http, _: denied) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        store = ObjectStore(endpoint_url=bucket.endpoint, role_arn=ROLE, attempts=2)
        for ask in (
            lambda: store.inventory([f"s3://{bucket.name}/"]),
            lambda: store.read_many([(f"s3://{bucket.name}/a", "1")], 9),
            lambda: Catalog(uri=f"s3://{bucket.name}/catalog", store=store).version(),
        ):
            with pytest.raises(StoreRefusal, match=r"role/reader is not given to us \(AccessDenied\).*trust policy"):
                ask()


def test_who_pays_and_what_encrypts_goes_with_every_request(bucket: Any) -> None:
    seen: Seen = []
    with S3Proxy(bucket.endpoint, noting(seen)) as proxy:
        use(ObjectStore(endpoint_url=proxy.url, requester_pays=True, kms_key_id="a-key-of-kms"), bucket.name)
    assert {headers.get("x-amz-request-payer") for _, headers in seen} == {"requester"}
    written = [headers for method, headers in seen if method == "PUT"]
    assert {each.get("x-amz-server-side-encryption") for each in written} == {"aws:kms"}
    assert {each.get("x-amz-server-side-encryption-aws-kms-key-id") for each in written} == {"a-key-of-kms"}
    plain: Seen = []
    with S3Proxy(bucket.endpoint, noting(plain)) as proxy:
        use(ObjectStore(endpoint_url=proxy.url), bucket.name)
    assert not any(name.startswith(("x-amz-request-payer", "x-amz-server")) for _, each in plain for name in each)


def test_a_profile_is_read(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials"
    file.write_text("[other]\naws_access_key_id = of-the-profile\naws_secret_access_key = its-secret-key\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    seen: Seen = []
    with S3Proxy(bucket.endpoint, noting(seen)) as proxy:
        use(ObjectStore(endpoint_url=proxy.url, profile="other"), bucket.name)
    assert all("Credential=of-the-profile/" in headers["authorization"] for _, headers in seen)
