"""Batches and files of the Gemini API as google-genai speaks of them (`types.BatchJob`, `types.File`), on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from google.genai import types

from tests.loopback.batches.service import CANCELLED, COMPLETED, EXPIRED, FAILED, RUNNING, BatchService, Job

_CREATE = re.compile(r"/v1(?:beta)?/models/([^:/]+):batchGenerateContent")
_JOB = re.compile(r"/v1(?:beta)?/batches/([^:/]+)(:cancel)?")
_DOWNLOAD = re.compile(r"/v1(?:beta)?/files/([^:/]+):download")
_ABOUT = re.compile(r"/v1(?:beta)?/(?:batches|files)")
_STATES = {
    RUNNING: "BATCH_STATE_RUNNING",
    COMPLETED: "BATCH_STATE_SUCCEEDED",
    EXPIRED: "BATCH_STATE_EXPIRED",
    FAILED: "BATCH_STATE_FAILED",
    CANCELLED: "BATCH_STATE_CANCELLED",
}
_CODES = {400: 3, 429: 8, 500: 13, 503: 14}  # google.rpc.Code


def written(key: str, status: int, body: Any) -> tuple[dict[str, Any], bool]:
    """A result as a line: replies and errors stand in one file."""
    if status == 200:
        return {"key": key, "response": body}, False
    error = {"code": _CODES.get(status, status), "message": body["error"]["message"]}
    return {"key": key, "error": error}, False


class GeminiBatchRoutes:
    """Answers what is about batches, and about files by way of lists and downloads."""

    def __init__(self, service: BatchService, reply: Callable[..., None]) -> None:
        self.service, self._reply = service, reply

    def answer(self, http: BaseHTTPRequestHandler, method: str) -> bool:
        """Whether this is for us; it is then answered."""
        path = http.path.partition("?")[0]
        try:
            body = self._answer(method, path, http)
        except KeyError as error:
            self._reply(http, 404, {"error": {"code": 404, "message": f"not found: {error}", "status": "NOT_FOUND"}})
            return True
        if body is not None:
            self._reply(http, 200, body)
        return body is not None

    def _answer(self, method: str, path: str, http: BaseHTTPRequestHandler) -> Any:
        if created := _CREATE.fullmatch(path):
            batch = json.loads(http.rfile.read(int(http.headers["Content-Length"])))["batch"]
            if set(batch) != {"displayName", "inputConfig"}:
                raise KeyError(str(set(batch)))
            file = batch["inputConfig"]["fileName"].removeprefix("files/")
            return self._job(self.service.create(file, batch["displayName"], created[1]))
        if method == "GET" and _ABOUT.fullmatch(path) and path.endswith("/batches"):
            return {"operations": [self._job(job) for job in self.service.jobs.values()]}
        if method == "GET" and _ABOUT.fullmatch(path) and path.endswith("/files"):
            return {"files": [self.file(name) for name in self.service.files]}
        if method == "GET" and (found := _DOWNLOAD.fullmatch(path)):
            return self.service.files[found[1]]
        if found := _JOB.fullmatch(path):
            if method == "DELETE":
                self.service.removed.append(f"batches/{found[1]}")
                return {}
            if found[2]:
                http.rfile.read(int(http.headers.get("Content-Length") or 0))
                self.service.cancel(found[1])
                return {}
            return self._job(self.service.look_at(found[1]))
        return None

    def file(self, name: str) -> Any:
        """A file as the vendor tells of it."""
        made = types.File(
            name=f"files/{name}",
            display_name=self.service.names[name],
            mime_type="application/jsonl",
            state=types.FileState.ACTIVE,
        )
        return made.model_dump(mode="json", by_alias=True, exclude_none=True)

    def _job(self, job: Job) -> Any:
        metadata: dict[str, Any] = {
            "displayName": job.name,
            "state": _STATES[job.state],
            "model": f"models/{job.model}",
        }
        if job.results and job.state != RUNNING:
            metadata["output"] = {"responsesFile": f"files/{job.results[0]}"}
        return {"name": f"batches/{job.id}", "metadata": metadata}
