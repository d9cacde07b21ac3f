"""Batches of the Gemini API (https://ai.google.dev/gemini-api/docs/batch-api), by files of requests and of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightflow.blocks.models.contract import BatchLimits, RemoteBatch, RemoteState
from sightflow.blocks.models.engines.providers.batches.vendor_batches import BatchingEngine, VendorBatches
from sightflow.blocks.models.engines.providers.messages import ProviderError, ProviderResponse, as_text
from sightflow.blocks.models.engines.providers.transport.bounded_answers import MOST_BYTES

if TYPE_CHECKING:
    from google import genai
    from google.genai import types

LIMITS = BatchLimits(requests=50_000, file_bytes=2_000_000_000, line_bytes=2_000_000_000)
_STATES = {
    "JOB_STATE_SUCCEEDED": RemoteState.COMPLETED,
    "JOB_STATE_PARTIALLY_SUCCEEDED": RemoteState.COMPLETED,
    "JOB_STATE_EXPIRED": RemoteState.EXPIRED,
    "JOB_STATE_FAILED": RemoteState.FAILED,
    "JOB_STATE_CANCELLED": RemoteState.CANCELLED,
}
# Codes of google.rpc.Code that stand in a line of results, as statuses of HTTP.
_HTTP = {1: 499, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 12: 501, 13: 500, 14: 503, 16: 401}
_MOST_LISTED = 20_000


class GeminiBatches(VendorBatches):
    """`connect`: a client whose answers may have so many bytes."""

    def __init__(self, engine: BatchingEngine, connect: Callable[[int], genai.Client]) -> None:
        super().__init__(engine, LIMITS)
        self._connect = connect
        self._client = connect(MOST_BYTES)

    # --- lines ----------------------------------------------------------------------------------

    def wrapped(self, custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"key": custom_id, "request": body}

    def unwrapped(self, line: dict[str, Any]) -> tuple[str, Callable[[], ProviderResponse | ProviderError | None]]:
        custom_id, response, error = line["key"], line.get("response"), line.get("error")
        if not isinstance(custom_id, str):
            raise TypeError("an id is a text")

        def read() -> ProviderResponse | ProviderError:
            if isinstance(response, Mapping) and not error:
                return self.engine.read_batch_body(response)
            code = error.get("code") if isinstance(error, Mapping) else None
            status = _HTTP.get(code, code) if isinstance(code, int) else None
            return self.engine.read_batch_error(status, error)

        return custom_id, read

    # --- files ----------------------------------------------------------------------------------

    def send_file(self, file: Path, batch_id: str) -> str:
        sent = self._client.files.upload(file=str(file), config={"display_name": batch_id, "mime_type": "jsonl"})
        return str(sent.name)

    def fetch_file(self, result_file: str, to: Path, most_bytes: int) -> None:
        # The client is kept: a temporary one closes its connections under the call.
        client = self._connect(most_bytes)
        client.files.download(file=result_file, destination=str(to))

    def uploaded(self, batch_id: str) -> list[str]:
        listed = islice(self._client.files.list(config={"page_size": 100}), _MOST_LISTED)
        return [str(file.name) for file in listed if file.display_name == batch_id]

    def drop(self, file: str) -> None:
        self._client.files.delete(name=file)

    # --- batches --------------------------------------------------------------------------------

    def begin(self, input_file: str, batch_id: str) -> RemoteBatch:
        model = self.engine.account.model_id
        return _remote(self._client.batches.create(model=model, src=input_file, config={"display_name": batch_id}))

    def search(self, input_file: str | None, batch_id: str) -> RemoteBatch | None:
        listed = islice(self._client.batches.list(config={"page_size": 100}), _MOST_LISTED)
        return next((_remote(job) for job in listed if job.display_name == batch_id), None)

    def retrieve(self, vendor_batch: str) -> RemoteBatch:
        return _remote(self._client.batches.get(name=vendor_batch))

    def stop(self, vendor_batch: str) -> None:
        self._client.batches.cancel(name=vendor_batch)

    def forget(self, vendor_batch: str) -> None:
        self._client.batches.delete(name=vendor_batch)


def _remote(job: types.BatchJob) -> RemoteBatch:
    state = _STATES.get(as_text(getattr(job.state, "value", job.state)), RemoteState.RUNNING)
    file = job.dest.file_name if job.dest else None
    said = as_text(job.error.message) if job.error else ""
    files = (str(file),) if file and state is not RemoteState.RUNNING else ()
    return RemoteBatch(str(job.name), state, files, said, as_text(job.display_name))
