"""Keys appear in no output, log, error, row, report, artifact or repr, whether a run goes well or not."""

import asyncio
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models.registry import open_model
from sightflow.blocks.models.systems.gpt_4o import GPT4o
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.flows.enrich import enrich
from sightflow.infra.prefect_server import deliver
from sightflow.infra.server_process import PrefectServer
from sightflow.schemas.failure import SpecError, StoreError
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.test_incremental import flat
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy

pytestmark = pytest.mark.usefixtures("prefect_server")
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIA-canary-of-the-store",
    "AWS_SECRET_ACCESS_KEY": "canary-secret-of-the-store",
    "OPENAI_API_KEY": "sk-canary-of-the-model",
}
BLOCK_KEYS = {
    "access_key_id": "AKIA-canary-of-the-block",
    "secret_access_key": "canary-secret-of-the-block",
    "session_token": "canary-token-of-the-block",
}


def test_blocks_do_not_show_their_keys() -> None:
    store = ObjectStore(**BLOCK_KEYS)
    store.delta_options("s3://bucket/catalog")
    for block in (store, Catalog(uri="s3://bucket/catalog", store=store), GPT4o(api_key="sk-canary")):
        for shown in (repr(block), str(block), block.model_dump_json(), repr(block.model_dump())):
            assert "canary" not in shown


def test_a_saved_block_that_no_longer_fits_is_refused_without_what_it_holds() -> None:
    async def change() -> None:
        from prefect import get_client
        from prefect.client.schemas.actions import BlockDocumentUpdate

        async with get_client() as client:
            address = "http://me:canary-password@gateway/v1"
            await client.update_block_document(saved, BlockDocumentUpdate(data={"base_url": address}))

    saved = GPT4o(base_url="http://gateway/v1").save("of-another-version")
    asyncio.run(change())
    with pytest.raises(SpecError, match="gpt-4o/of-another-version does not fit this version; save it anew") as raised:
        open_model("gpt-4o", {"block": "of-another-version"})
    assert "canary" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("fails", [False, True], ids=["well", "no-bucket"])
def test_keys_of_the_environment_are_shown_nowhere(
    fails: bool, bucket: Any, tmp_path: Path, write_spec: Any, prefect_server: PrefectServer
) -> None:
    for k in range(2):
        bucket.put(f"in/{k}.png", flat((k, 1, 2)))
    bucket.put("in/broken.png", b"")
    # The endpoint takes any key; one that answers nothing stands for a provider that cannot be reached.
    source = f"s3://{bucket.name + ('-missing' if fails else '')}/in/**"
    asked = [
        {"capability": "image captioning", "name": "caption", "model": "florence-2"},
        {"capability": "image captioning", "name": "hosted", "model": "gpt-4o"},
    ]
    models = {"gpt-4o": {"base_url": "http://127.0.0.1:9", "max_attempts": 1, "timeout": 2}}
    policy = {"hosted": "allow", "max_quarantine_ratio": 1.0}
    spec = write_spec(source, enrichments=asked, models=models, policy=policy, store={"endpoint_url": bucket.endpoint})
    start = (
        "from sightflow.blocks.models.registry import SYSTEMS; SYSTEMS['florence-2'] = 'tests.stand_in_model:StandIn'; "
        "from sightflow.infra.cli import main; main()"
    )
    command = [sys.executable, "-c", start, "run", str(spec)]
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(Path(__file__).parents[2]), "SIGHTFLOW_DEBUG": "1"}
    began = datetime.now(UTC)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == (1 if fails else 0), done.stderr
    assert_hidden(SECRETS.values(), [done.stdout, done.stderr], began, tmp_path, prefect_server.folder)


def test_what_a_run_logs_is_sent_to_prefect_without_keys() -> None:
    from prefect import flow
    from prefect.logging import get_run_logger

    @flow(name="logs a key")
    def logs_a_key() -> None:
        get_run_logger().warning("asked %s: Authorization: Bearer canary-1", "http://me:canary-2@host")
        raise StoreError("http://me:canary-3@host does not answer")

    began = datetime.now(UTC)
    with pytest.raises(StoreError):
        logs_a_key()
    deliver()
    told = [text for kept in asyncio.run(told_by_prefect(began)).values() for text in kept]
    assert any("asked http://***@host: Authorization: Bearer ***" in text for text in told)
    assert any("http://***@host does not answer" in text for text in told)
    assert not [text for text in told if re.search(r"canary-\d", text)]


REFUSALS = {
    "well": ("^$", "", None),
    "listing": (r"list-type=2&prefix=in", "InvalidAccessKeyId", "refuses to let us read"),
    "the objects' own policy": (r"\.png", "AccessDenied", None),
    "a token that ends between the listing and the objects": (r"\.png", "ExpiredToken", "refuses to let us read"),
    "the catalog's log": (r"_delta_log", "InvalidAccessKeyId", r"cannot be read: .*\(InvalidAccessKeyId\)"),
    "the catalog's rows": (r"\.parquet", "ExpiredToken", r"cannot be read: .*\(ExpiredToken\)"),
}


def refusing(refused: str, code: str) -> Callable[[BaseHTTPRequestHandler, int], Refuse | None]:
    """Refuse what matches, in the words of AWS, and tell all that was sent, keys and all.

    AWS repeats the key id with InvalidAccessKeyId and the token with ExpiredToken; gateways repeat more.
    """

    def spoil(http: BaseHTTPRequestHandler, times: int) -> Refuse | None:
        if not re.search(refused, http.path):
            return None
        key, token = http.headers.get("Authorization", ""), http.headers.get("x-amz-security-token", "")
        key = key.partition("Credential=")[2].partition("/")[0]
        said = f"<Code>{code}</Code><Message>refused: {key} {token}</Message>"
        return Refuse(403, f"<Error>{said}<AWSAccessKeyId>{key}</AWSAccessKeyId><Token-0>{token}</Token-0></Error>")

    return spoil


@pytest.mark.parametrize("what", REFUSALS)
def test_keys_of_a_saved_block_are_shown_nowhere_even_if_the_store_repeats_them(
    what: str, bucket: Any, tmp_path: Path, write_spec: Any, stand_in: Any, prefect_server: PrefectServer, capfd: Any
) -> None:
    refused, code, says = REFUSALS[what]
    for k in range(2):
        bucket.put(f"in/{k}.png", flat((k, 1, 2)))
    source, began = f"s3://{bucket.name}/in/**", datetime.now(UTC)
    in_s3 = "catalog" in what
    catalog = f"s3://{bucket.name}/catalog" if in_s3 else str(tmp_path / "catalog")
    if in_s3:  # one that is there and has rows
        enrich(read_spec(write_spec(source, catalog=catalog, store={"endpoint_url": bucket.endpoint})))
    with S3Proxy(bucket.endpoint, refusing(refused, code)) as store:
        ObjectStore(endpoint_url=store.url, attempts=2, **BLOCK_KEYS).save(bucket.name)
        spec = read_spec(write_spec(source, catalog=catalog, store={"block": bucket.name}))
        if says:
            with pytest.raises(StoreError, match=says) as raised:
                enrich(spec)
            shown = traceback.format_exception(raised.value)
        else:
            report = enrich(spec)
            shown = [repr(report), report.model_dump_json()]
            assert report.causes == ({"fetch": 2} if code else {})
        assert bool(store.refusals) is bool(code)
    deliver()
    assert_hidden(BLOCK_KEYS.values(), [*shown, *capfd.readouterr()], began, tmp_path, prefect_server.folder)


def assert_hidden(secrets: Any, shown: Sequence[str], since: datetime, *folders: Path) -> None:
    """None of the secrets is in what was shown, in what Prefect tells of runs since then, or in a file."""
    told = asyncio.run(told_by_prefect(since))
    files = [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 2 and all(told.values()), {name: len(kept) for name, kept in told.items()}
    texts = [*shown, *(text for kept in told.values() for text in kept)]
    for secret in secrets:
        assert not [text for text in texts if secret in text]
        assert not any(secret.encode() in content for content in files)


async def told_by_prefect(since: datetime) -> dict[str, list[str]]:
    """What the server keeps of runs since then: their parameters and states, logs, the blocks, any artifacts."""
    from prefect import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterStartTime,
        LogFilter,
        LogFilterTimestamp,
    )

    runs = FlowRunFilter(start_time=FlowRunFilterStartTime(after_=since))
    lines = LogFilter(timestamp=LogFilterTimestamp(after_=since))
    async with get_client() as client:
        found = {
            "flow runs": await client.read_flow_runs(flow_run_filter=runs, limit=200),
            "logs": await client.read_logs(lines, limit=200),
        }
        assert max(map(len, found.values())) < 200  # all of them
        others = [
            *await client.read_task_runs(flow_run_filter=runs, limit=200),
            *await client.read_artifacts(limit=200),
            *await client.read_block_documents(limit=200, include_secrets=False),
        ]
    told = {name: [item.model_dump_json() for item in kept] for name, kept in found.items()}
    told["flow runs"] += [item.model_dump_json() for item in others]
    return told
