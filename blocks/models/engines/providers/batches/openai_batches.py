"""OpenAI's batches (https://platform.openai.com/docs/guides/batch), at OpenAI or at a vendor that speaks them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sightflow.blocks.models.contract import BatchLimits, RemoteBatch, RemoteState
from sightflow.blocks.models.engines.providers.batches.vendor_batches import BatchingEngine, VendorBatches
from sightflow.blocks.models.engines.providers.messages import ProviderError, ProviderResponse, as_text
from sightflow.blocks.models.engines.providers.transport.bounded_answers import MOST_BYTES

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

_ENDPOINT: Final = "/v1/chat/completions"
_WINDOW: Final = "24h"
_STATES = {
    "completed": RemoteState.COMPLETED,
    "expired": RemoteState.EXPIRED,
    "failed": RemoteState.FAILED,
    "cancelled": RemoteState.CANCELLED,
}
_NOT_BEGUN = frozenset({"batch_expired", "batch_cancelled"})
_MOST_LISTED = 20_000  # batches and files of an account that are looked through
_CHUNK = 1 << 20


class OpenAIBatches(VendorBatches):
    """By files of requests, results and errors. `connect`: a client whose answers may have so many bytes.

    `name_key`: of the metadata, under which our id of a batch stands.
    """

    def __init__(
        self,
        engine: BatchingEngine,
        limits: BatchLimits,
        connect: Callable[[int], openai.OpenAI],
        name_key: str = "sightflow_batch",
    ) -> None:
        super().__init__(engine, limits)
        self._connect, self._name_key = connect, name_key
        self._client = connect(MOST_BYTES)

    # --- lines ----------------------------------------------------------------------------------

    def wrapped(self, custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"custom_id": custom_id, "method": "POST", "url": _ENDPOINT, "body": body}

    def unwrapped(self, line: dict[str, Any]) -> tuple[str, Callable[[], ProviderResponse | ProviderError | None]]:
        custom_id, response, error = line["custom_id"], line.get("response"), line.get("error")
        if not isinstance(custom_id, str):
            raise TypeError("an id is a text")

        def read() -> ProviderResponse | ProviderError | None:
            if isinstance(error, Mapping) and as_text(error.get("code")) in _NOT_BEGUN:
                return None
            if not isinstance(response, Mapping):
                return self.engine.read_batch_error(None, error)
            status, body = response.get("status_code"), response.get("body")
            if status == 200 and not error:
                return self.engine.read_batch_body(body)
            said = body.get("error") if isinstance(body, Mapping) else None
            return self.engine.read_batch_error(status if isinstance(status, int) else None, said or error or body)

        return custom_id, read

    # --- files ----------------------------------------------------------------------------------

    def send_file(self, file: Path, batch_id: str) -> str:
        with file.open("rb") as content:
            sent = self._client.files.create(file=(f"{batch_id}.jsonl", content), purpose="batch")
        return sent.id

    def fetch_file(self, result_file: str, to: Path, most_bytes: int) -> None:
        client = self._connect(most_bytes)
        with client, client.files.with_streaming_response.content(result_file) as content, to.open("wb") as file:
            for chunk in content.iter_bytes(_CHUNK):
                file.write(chunk)

    def uploaded(self, batch_id: str) -> list[str]:
        listed = islice(self._client.files.list(purpose="batch"), _MOST_LISTED)
        return [file.id for file in listed if file.filename == f"{batch_id}.jsonl"]

    def drop(self, file: str) -> None:
        self._client.files.delete(file)

    # --- batches --------------------------------------------------------------------------------

    def begin(self, input_file: str, batch_id: str) -> RemoteBatch:
        made = self._client.batches.create(
            input_file_id=input_file,
            endpoint=_ENDPOINT,
            completion_window=_WINDOW,
            metadata={self._name_key: batch_id},
        )
        return self._remote(made)

    def search(self, input_file: str | None, batch_id: str) -> RemoteBatch | None:
        for batch in islice(self._client.batches.list(limit=100), _MOST_LISTED):
            named = (batch.metadata or {}).get(self._name_key)
            if named == batch_id or (input_file is not None and batch.input_file_id == input_file):
                return self._remote(batch)
        return None

    def retrieve(self, vendor_batch: str) -> RemoteBatch:
        return self._remote(self._client.batches.retrieve(vendor_batch))

    def stop(self, vendor_batch: str) -> None:
        self._client.batches.cancel(vendor_batch)

    def _remote(self, batch: Batch) -> RemoteBatch:
        state = _STATES.get(as_text(batch.status), RemoteState.RUNNING)
        files = tuple(file for file in (batch.output_file_id, batch.error_file_id) if file)
        problems = (batch.errors.data if batch.errors else None) or []
        said = "; ".join(as_text(problem.message) for problem in problems[:3])
        name = as_text((batch.metadata or {}).get(self._name_key))
        return RemoteBatch(batch.id, state, files if state is not RemoteState.RUNNING else (), said, name)
