"""What the tests share: one real Prefect server, one real S3 endpoint, the demo model, a stand-in, and specs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL",
    DO_NOT_TRACK="1",
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="not-a-real-secret",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
    OMP_NUM_THREADS="1",  # two test processes share two cores
    OMP_WAIT_POLICY="PASSIVE",
)

import pytest
import yaml
from hypothesis import settings

from sightflow.infra.demo.bucket import MODEL_FOLDER, s3_on_loopback
from sightflow.infra.prefect_server import deliver
from sightflow.infra.server_process import PrefectServer
from tests.clouds import Cloud, azure_cloud, google_cloud
from tests.installed import Installed, install
from tests.loopback.stores.azurite import Azurite
from tests.loopback.stores.google_storage import GoogleStorage
from tests.postgres import own_database
from tests.stand_in_model import StandIn

# The same examples in every run, however long one takes on a busy machine; `make fuzz` looks for others.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that the last of them is not waited for alone.

    Whatever drives the program from outside, or needs Prefect's server, is marked `e2e`.
    """
    for item in items:
        if "e2e" in item.path.parts or "prefect_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.e2e)
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server of this session; everything started from here talks to it."""
    from prefect.context import refresh_global_settings_context

    with PrefectServer(tmp_path_factory.mktemp("prefect"), database=own_database()) as server:
        os.environ.update(server.client_environment)
        refresh_global_settings_context()
        server.wait()
        yield server
        deliver()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own."""
    return install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_on_loopback() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> Any:
    """A fresh bucket: `.put(key, bytes)`, `.delete(key)`, `.name`, `.endpoint`."""
    return Bucket(s3_endpoint, f"b{abs(hash(request.node.nodeid))}")


class Bucket:
    def __init__(self, endpoint: str, name: str) -> None:
        import boto3

        self.endpoint, self.name = endpoint, name
        self.client = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket=name)

    def put(self, key: str, content: bytes) -> str:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)
        return f"s3://{self.name}/{key}"

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with Azurite() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def google_storage() -> Iterator[GoogleStorage]:
    with GoogleStorage() as emulator:
        yield emulator


@pytest.fixture(params=["azure", "google"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A fresh bucket of Google's, and a container of Azure's, with their keys in the environment."""
    if request.param == "azure":
        found = azure_cloud(request.getfixturevalue("azurite"))
    else:
        found = google_cloud(request.getfixturevalue("google_storage"))
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """Let a quick model that answers from the pixels take the place of Florence-2."""
    from sightflow.blocks.models import registry as systems

    monkeypatch.setitem(systems.SYSTEMS, "florence-2", "tests.stand_in_model:StandIn")
    systems.system_class.cache_clear()
    StandIn.reset()
    yield StandIn
    systems.system_class.cache_clear()


SpecWriter = Callable[..., Path]


@pytest.fixture
def write_spec(tmp_path: Path) -> SpecWriter:
    """Write a spec of captions (and what else is asked for) with the demo's weights; keywords replace sections."""

    def write(source: Any, **sections: Any) -> Path:
        spec: dict[str, Any] = {
            "source": source,
            "catalog": str(tmp_path / "catalog"),
            "enrichments": [{"capability": "image captioning", "name": "caption"}],
            "models": {"florence-2": {"id": str(MODEL_FOLDER)}},
            "policy": {"max_quarantine_ratio": 1.0},
        }
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(spec | sections, allow_unicode=True))
        return path

    return write
