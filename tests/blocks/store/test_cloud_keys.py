"""Every way to give keys of Azure and Google; and none of them is ever told."""

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sightflow.blocks import extras
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.azure import client as azure_client
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import SightflowError, StoreError, StoreRefusal
from sightflow.schemas.redaction import redact
from tests.clouds import Cloud
from tests.loopback.stores.azurite import ACCOUNT, KEY, Azurite
from tests.loopback.stores.google_storage import GoogleStorage
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy

ONLY_AZURE = pytest.mark.parametrize("cloud", ["azure"], indirect=True)


def sas(permissions: str = "rwdlac", ends: str = "2100-01-01T00:00:00Z") -> str:
    """A shared access signature of the account: "Create an account SAS" of the Azure Storage REST reference."""
    version = "2021-12-02"
    text = "\n".join([ACCOUNT, permissions, "b", "sco", "", ends, "", "https,http", version, "", ""])
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    parts = {"sv": version, "ss": "b", "srt": "sco", "sp": permissions, "se": ends, "spr": "https,http"}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in {**parts, "sig": signature}.items())


def works(store: ObjectStore, folder: str) -> None:
    """A source is listed and a catalog made and read, each by what it is reached with."""
    store.write(f"{folder}a.png", b"x")
    assert store.inventory([folder])["uri"].to_list() == [f"{folder}a.png"]
    catalog = Catalog(uri=f"{folder}catalog", store=store)
    catalog.check_writable()
    catalog.open_or_create("runs")
    assert catalog.version("runs") == 0 and catalog.scan("runs").collect().is_empty()


@ONLY_AZURE
@pytest.mark.parametrize("way", ["connection string", "account key", "sas", "sas in the address", "sas in a string"])
@pytest.mark.parametrize("given", ["settings", "environment"])
def test_azure_is_reached_with(
    cloud: Cloud, azurite: Azurite, way: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    parts = f"BlobEndpoint={azurite.endpoint};AccountName={ACCOUNT};"
    ways: dict[str, dict[str, str]] = {
        "connection string": {"azure_connection_string": azurite.connection_string},
        "account key": {"azure_account": ACCOUNT, "azure_account_key": KEY},
        "sas": {"azure_account": ACCOUNT, "azure_sas_token": f"?{sas()}"},
        "sas in the address": {"azure_connection_string": f"{parts}".replace(";Acc", f"?{sas()};Acc")},
        "sas in a string": {"azure_connection_string": f"{parts}SharedAccessSignature={sas()}"},
    }
    settings = ways[way]
    endpoint = {} if "azure_connection_string" in settings else {"azure_endpoint_url": azurite.endpoint}
    if given == "environment":
        for name, value in settings.items():
            variable = "AZURE_STORAGE_ACCOUNT_NAME" if name == "azure_account" else name.upper()
            monkeypatch.setenv(variable.replace("AZURE_", "AZURE_STORAGE_", "STORAGE" not in variable), value)
        settings = {}
    works(ObjectStore(**endpoint, **settings, attempts=1), cloud.uri(""))


@ONLY_AZURE
def test_a_login_of_azure_sends_its_token_and_needs_the_extra(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    seen: list[str] = []

    def spoil(http: BaseHTTPRequestHandler, _: int) -> Refuse:
        seen.append(http.headers["Authorization"])
        return Refuse(403, f"<Error><Code>AuthenticationFailed</Code><Message>{seen[-1]}</Message></Error>")

    with S3Proxy(cloud.endpoint, spoil) as proxy:
        tokens = iter(["canary-token-1", "canary-token-2"])
        login = SimpleNamespace(get_token=lambda audience: SimpleNamespace(token=next(tokens), expires_on=1e11))
        with monkeypatch.context() as patched:
            patched.setattr(azure_client, "open_login", lambda settings: login)
            store = cloud.store(proxy.url)
            for _ in range(2):
                with pytest.raises(StoreRefusal) as raised:
                    store.inventory([cloud.uri("")])
                assert "canary" not in str(raised.value)
            assert set(seen) == {"Bearer canary-token-1"}, "a token that holds was asked for anew"
            assert store.delta_options(cloud.uri("catalog"))["azure_storage_token"] == "canary-token-1"
    monkeypatch.setattr(extras, "is_installed", lambda package: False)
    with pytest.raises(StoreRefusal, match=r"needs azure.identity, which is not installed.*'sightflow\[azure\]'"):
        cloud.store().inventory([cloud.uri("")])


def test_what_is_wrong_with_azures_keys_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, said in (
        ({"azure_connection_string": "not one"}, "has no NAME=VALUE"),
        (
            {"azure_account": "one", "azure_connection_string": "AccountName=two;AccountKey=a2V5"},
            "is of the Azure account",
        ),
        ({"azure_account": "one", "azure_account_key": "no Base64!"}, "is no Base64"),
    ):
        with pytest.raises(StoreRefusal, match=said):
            ObjectStore(**settings).inventory(["az://media/"])


SECRET = "canary+of/the+key=="


@ONLY_AZURE
@pytest.mark.parametrize("settings", [
    {"azure_account": ACCOUNT, "azure_account_key": base64.b64encode(SECRET.encode()).decode()},
    {"azure_account": ACCOUNT, "azure_sas_token": f"sv=2021-12-02&sp=r&sig={quote(SECRET, safe='')}"},
])  # fmt: skip
def test_a_key_or_a_sas_is_in_no_message_log_or_representation(
    cloud: Cloud, settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    def repeats(http: BaseHTTPRequestHandler, _: int) -> Refuse:
        said = f"{http.path} {http.headers.get('Authorization')} {' '.join(settings.values())}".replace("&", "&amp;")
        return Refuse(400, f"<Error><Code>Odd</Code><Message>{said}</Message></Error>")

    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    with S3Proxy(cloud.endpoint, repeats) as proxy:
        store = ObjectStore(**settings, azure_endpoint_url=f"{proxy.url}/{ACCOUNT}", attempts=1)
        uri = cloud.uri("a.png")
        catalog = Catalog(uri=cloud.uri("catalog"), store=store)
        for ask in (
            lambda: store.inventory([uri]), lambda: store.read(uri), lambda: store.write(uri, b""), catalog.version,
            catalog.check_writable, lambda: store.head_many([uri]), lambda: catalog.open_or_create("runs"),
        ):  # fmt: skip
            with pytest.raises(StoreError) as raised, catalog.writing():
                ask()
            told.append(str(raised.value))
        told += [str(store.read_many([(uri, "1")], 1)), repr(store), repr(store.backend(next(iter(store._backends))))]
    told += [redact(record.getMessage()) for record in caplog.records if record.name.startswith("sightflow")]
    secret = next(value for name, value in settings.items() if name != "azure_account")
    for text in told:
        assert secret not in text and quote(SECRET, safe="") not in text and "canary" not in text, text


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@contextmanager
def with_login(key: rsa.RSAPrivateKey) -> Iterator[tuple[GoogleStorage, dict[str, str]]]:
    """A bucket `media` that takes the token of a login, or what the service account has signed itself."""
    email = "sightflow@project.iam.gserviceaccount.com"

    def takes(bearer: str) -> bool:
        if bearer == "canary-token-of-google":
            return True
        try:
            return bool(jwt.decode(bearer, key.public_key(), ["RS256"], options={"verify_aud": False})["iss"] == email)
        except jwt.PyJWTError:
            return False

    with GoogleStorage("media", token="canary-token-of-google", takes=takes) as storage:
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        info = {
            "type": "service_account", "project_id": "project", "private_key_id": "1", "private_key": pem.decode(),
            "client_email": email, "client_id": "1", "token_uri": f"{storage.url}/token",
        }  # fmt: skip
        yield storage, info


@pytest.mark.parametrize("way", ["json", "file", "environment"])
def test_google_is_reached_with(
    way: str, key: rsa.RSAPrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with with_login(key) as (storage, info):
        file = tmp_path / "account.json"
        file.write_text(json.dumps(info))
        ways: dict[str, dict[str, str]] = {
            "json": {"google_credentials_json": json.dumps(info)},
            "file": {"google_credentials_file": str(file)},
            "environment": {},
        }
        if way == "environment":
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        store = ObjectStore(google_endpoint_url=storage.url, attempts=1, **ways[way])
        works(store, "gs://media/")
        assert storage.logins == 1, "a token that holds was asked for anew"
        assert "PRIVATE" not in repr(store) and "canary-token-of-google" not in redact("a canary-token-of-google")
        with pytest.raises(StoreRefusal, match="refuses to let us read"):
            ObjectStore(google_endpoint_url=storage.url, anonymous=True, attempts=1).inventory(["gs://media/"])


def other(info: dict[str, str], **changed: str) -> dict[str, Any]:
    return {"google_credentials_json": json.dumps({**info, **changed})}


@pytest.mark.parametrize(("wrong", "said"), [
    (lambda info: {"google_credentials_json": "{"}, "cannot be read: it is no JSON object"),
    (lambda info: {"google_credentials_file": "/not/here.json"}, "/not/here.json cannot be read"),
    (lambda info: other(info, private_key="none"), "no keys for Google"),
    (lambda info: other(info, token_uri=info["token_uri"].replace("token", "media/none")), "no keys for http"),
    (lambda info: other(info, type="external_account"), "no keys for Google"),
])  # fmt: skip
def test_what_is_wrong_with_googles_keys_is_said_and_no_key_is(
    wrong: Callable[[dict[str, str]], dict[str, Any]], said: str, key: rsa.RSAPrivateKey
) -> None:
    with with_login(key) as (storage, info):
        store = ObjectStore(google_endpoint_url=storage.url, attempts=1, **wrong(info))
        with pytest.raises(StoreRefusal, match=said) as raised:
            store.inventory(["gs://media/"])
        assert info["private_key"][60:90] not in str(raised.value)
        with pytest.raises(SightflowError):
            Catalog(uri="gs://media/catalog", store=store).check_writable()


def test_a_login_to_google_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda package: False)
    with pytest.raises(StoreRefusal, match=r"needs google.auth, which is not installed.*'sightflow\[google\]'"):
        ObjectStore().inventory(["gs://media/"])
