"""Keys appear in no output, log, row, report, artifact or repr, whether a run goes well or not."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blocks.gpt_4o import GPT4o
from blocks.object_store import ObjectStore
from tests.e2e.test_incremental import flat

pytestmark = pytest.mark.usefixtures("prefect_server")
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIA-canary-of-the-store",
    "AWS_SECRET_ACCESS_KEY": "canary-secret-of-the-store",
    "OPENAI_API_KEY": "sk-canary-of-the-model",
}


def test_blocks_do_not_show_their_keys() -> None:
    store = ObjectStore(access_key_id="AKIA-canary", secret_access_key="canary-secret")
    model = GPT4o(api_key="sk-canary")
    for shown in (repr(store), str(store), store.model_dump_json(), repr(model), str(model), model.model_dump_json()):
        assert "canary" not in shown


@pytest.mark.parametrize("fails", [False, True], ids=["well", "refused"])
def test_a_run_shows_no_key_anywhere(fails: bool, bucket: Any, tmp_path: Path, write_spec: Any) -> None:
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
        "from blocks import systems; systems.SYSTEMS['florence-2'] = 'tests.stand_in_model:StandIn'; "
        "from flows.cli import main; main()"
    )
    command = [sys.executable, "-c", start, "run", str(spec)]
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(Path(__file__).parents[2]), "SIGHTFLOW_DEBUG": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == (1 if fails else 0), done.stderr
    shown = [done.stdout, done.stderr, *asyncio.run(told_by_prefect())]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files and len(shown) > 4
    for secret in SECRETS.values():
        assert not any(secret in text for text in shown)
        assert not any(secret.encode() in content for content in files)


async def told_by_prefect() -> list[str]:
    """All that the server keeps of runs: their parameters and states, the tasks', the logs, the artifacts."""
    from prefect import get_client

    told = []
    async with get_client() as client:
        for kept in (
            await client.read_flow_runs(limit=200),
            await client.read_task_runs(limit=200),
            await client.read_logs(limit=200),
            await client.read_artifacts(limit=200),
        ):
            told += [item.model_dump_json() for item in kept]
    return told
