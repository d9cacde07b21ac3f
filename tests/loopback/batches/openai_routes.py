"""Files and batches as OpenAI's SDK speaks of them (`openai.types.Batch`, `openai.types.FileObject`), on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from openai.types import Batch, FileDeleted, FileObject
from openai.types.batch_create_params import BatchCreateParams
from pydantic import TypeAdapter

from tests.loopback.batches.service import CANCELLED, COMPLETED, EXPIRED, FAILED, RUNNING, BatchService, Job

_CREATE = TypeAdapter(BatchCreateParams)
_STATES = {RUNNING: "in_progress", COMPLETED: "completed", EXPIRED: "expired", FAILED: "failed", CANCELLED: "cancelled"}
_THEN = 1_790_000_000


class OpenAIBatchService(BatchService):
    """What has not been begun when a batch expires stands in the file of errors."""

    def not_begun(self, custom_id: str) -> dict[str, Any] | None:
        error = {"code": "batch_expired", "message": "This request could not be executed before the completion window."}
        return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": None, "error": error}


def written(custom_id: str, status: int, body: Any) -> tuple[dict[str, Any], bool]:
    """A result as a line; one that is no reply goes into the file of errors."""
    response = {"status_code": status, "request_id": f"req_{custom_id}", "body": body}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": None}, status != 200


class OpenAIBatchRoutes:
    """Answers what begins with `prefix`; `most_bytes`, `line_bytes`: of a file and of a line."""

    def __init__(
        self,
        prefix: str,
        service: BatchService,
        reply: Callable[..., None],
        most_bytes: int = 200_000_000,
        line_bytes: int = 200_000_000,
    ) -> None:
        self.prefix, self.service, self._reply = prefix, service, reply
        self.most_bytes, self.line_bytes = most_bytes, line_bytes
        self.complaints: list[str] = []
        self.metadata: dict[str, dict[str, str]] = {}
        self.page = 2

    def answer(self, http: BaseHTTPRequestHandler, method: str) -> bool:
        """Whether this is for us; it is then answered."""
        path, _, query = http.path.partition("?")
        if not path.startswith((f"{self.prefix}/files", f"{self.prefix}/batches")):
            return False
        content = http.rfile.read(int(http.headers.get("Content-Length") or 0))
        try:
            body = self._answer(method, path.removeprefix(self.prefix).strip("/").split("/"), query, http, content)
        except KeyError as error:
            missing = {"message": f"No such object: {error}", "type": "invalid_request_error", "code": None}
            self._reply(http, 404, {"error": missing})
        except ValueError as error:
            self.complaints.append(str(error))
            self._reply(http, 400, {"error": {"message": str(error)[:300], "type": "invalid_request_error"}})
        else:
            self._reply(http, 200, body)
        return True

    def _answer(self, method: str, path: list[str], query: str, http: Any, content: bytes) -> Any:
        match (method, *path):
            case ("POST", "files"):
                fields = multipart(http.headers["Content-Type"], content)
                if fields["purpose"][1] != b"batch":
                    raise ValueError(f"purpose: {fields['purpose']!r}")
                name, sent = fields["file"]
                self._check(sent)
                return self._file(self.service.keep(sent, name))
            case ("GET", "files"):
                return self._page([self._file(file) for file in self.service.files], query)
            case ("GET", "files", file, "content"):
                return self.service.files[file]
            case ("DELETE", "files", file):
                if not self.service.remove(file):
                    raise KeyError(file)
                return FileDeleted(id=file, deleted=True, object="file").model_dump(mode="json")
            case ("POST", "batches"):
                asked = _CREATE.validate_python(json.loads(content))
                if asked["endpoint"] != "/v1/chat/completions":
                    raise ValueError(asked["endpoint"])
                metadata = dict(asked.get("metadata") or {})
                (name,) = metadata.values()
                job = self.service.create(asked["input_file_id"], name)
                self.metadata[job.id] = metadata
                return self._batch(job)
            case ("GET", "batches"):
                return self._page([self._batch(job) for job in reversed(self.service.jobs.values())], query)
            case ("GET", "batches", id):
                return self._batch(self.service.look_at(id))
            case ("POST", "batches", id, "cancel"):
                return self._batch(self.service.cancel(id))
        raise ValueError(f"no such path: {method} {path}")

    def _check(self, sent: bytes) -> None:
        """Raise ValueError if a file of requests is none that the vendor takes."""
        lines = sent.splitlines(keepends=True)
        if len(sent) > self.most_bytes or len(lines) > 50_000 or max(map(len, lines)) > self.line_bytes:
            raise ValueError(f"too large: {len(sent)} bytes, {len(lines)} lines")
        ids = []
        for line in map(json.loads, lines):
            if set(line) != {"custom_id", "method", "url", "body"} or line["method"] != "POST":
                raise ValueError(f"no request: {set(line)}")
            ids.append(line["custom_id"])
        if len(set(ids)) != len(ids) or max(map(len, ids)) > 64:
            raise ValueError("ids are unique, and of 64 characters at most")
        if len({json.loads(line)["body"]["model"] for line in lines}) != 1:
            raise ValueError("one model a file")

    def _page(self, found: list[Any], query: str) -> Any:
        """Two at a time, whatever is asked for: a page is not the whole."""
        after = re.search(r"after=([^&]+)", query)
        start = next((k + 1 for k, each in enumerate(found) if after and each["id"] == after[1]), 0)
        data = found[start : start + self.page]
        return {"object": "list", "data": data, "has_more": start + self.page < len(found)}

    def _file(self, file: str) -> Any:
        size = len(self.service.files[file])
        made = FileObject(
            id=file,
            bytes=size,
            created_at=_THEN,
            filename=self.service.names[file],
            object="file",
            purpose="batch",
            status="processed",
        )
        return made.model_dump(mode="json")

    def _batch(self, job: Job) -> Any:
        output, error = [*(job.results if job.state != RUNNING else ()), None, None][:2]
        made = {
            "id": job.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "created_at": _THEN,
            "input_file_id": job.input_file,
            "status": _STATES[job.state],
            "metadata": self.metadata[job.id],
            "output_file_id": output,
            "error_file_id": error,
        }
        return Batch.model_validate(made).model_dump(mode="json")


def multipart(content_type: str, content: bytes) -> dict[str, tuple[str, bytes]]:
    """The parts of a form (RFC 7578) by name: the file's name, if it is one, and what it holds."""
    boundary = b"--" + content_type.partition("boundary=")[2].strip('"').encode()
    fields = {}
    for part in content.split(b"\r\n" + boundary)[:-1] if content.startswith(boundary) else []:
        head, _, value = part.removeprefix(boundary).partition(b"\r\n\r\n")
        name = re.search(rb'\bname="([^"]*)"', head)
        file = re.search(rb'filename="([^"]*)"', head)
        assert name is not None
        fields[name[1].decode()] = (file[1].decode() if file else "", value)
    return fields
