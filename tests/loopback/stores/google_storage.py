"""Google Cloud Storage in memory, on loopback: the part of its XML API that our client and delta-rs' object_store send.

No emulator on PyPI serves it: gcp-storage-emulator has uploads by PUT, and neither listings nor preconditions. Held to
https://cloud.google.com/storage/docs/xml-api/reference-methods: listings (version 2), GET, HEAD, PUT and DELETE of
objects, uploads in parts, `x-goog-if-generation-match`, ranges, generations, and the errors' codes. Where `takes` is
given, requests must carry a bearer token that it takes; a login's own requests (`/token`) get `token`.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import md5
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

from tests.loopback.http_server import OnLoopback, QuietHandler


@dataclass(frozen=True)
class Held:
    content: bytes
    generation: int
    changed: datetime


class GoogleStorage(OnLoopback):
    """The buckets that are named; `page` keys are listed at once."""

    def __init__(
        self, *buckets: str, page: int = 1000, token: str = "", takes: Callable[[str], bool] | None = None
    ) -> None:
        super().__init__()
        self.buckets: dict[str, dict[str, Held]] = {name: {} for name in buckets}
        self.page, self.token, self.takes = page, token, takes
        self.logins = 0
        self._generations = itertools.count(1_700_000_000_000_000)
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()

    def put(self, bucket: str, key: str, content: bytes) -> int:
        """Keep an object, and return its generation."""
        with self._lock:
            held = Held(content, next(self._generations), datetime.now(UTC).replace(microsecond=0))
            self.buckets[bucket][key] = held
            return held.generation

    def handler(self) -> type[BaseHTTPRequestHandler]:
        storage = self

        class Handler(QuietHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                _Request(storage, self, body).answer()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        return Handler


class _Request:
    def __init__(self, storage: GoogleStorage, http: BaseHTTPRequestHandler, body: bytes) -> None:
        self.storage, self.http, self.body = storage, http, body
        path, _, query = http.path.partition("?")
        self.query = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        bucket, _, key = path.lstrip("/").partition("/")
        self.bucket, self.key = unquote(bucket), unquote(key)
        self.bearer = http.headers.get("Authorization", "").removeprefix("Bearer ")

    def answer(self) -> None:
        if self.http.path == "/token":
            self.storage.logins += 1
            token = {"access_token": self.storage.token, "expires_in": 3600, "token_type": "Bearer"}
            self.send(200, json.dumps(token).encode(), {"Content-Type": "application/json"})
        elif (takes := self.storage.takes) and not takes(self.bearer):
            self.refuse(*((403, "AccessDenied") if self.bearer else (401, "AuthenticationRequired")))
        elif self.bucket not in self.storage.buckets:
            self.refuse(404, "NoSuchBucket")
        elif not self.key:
            self.list()
        else:
            getattr(self, self.http.command.lower())()

    def list(self) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        token = self.query.get("continuation-token")
        after = bytes.fromhex(token).decode() if token else self.query.get("start-after", "")
        most = min(int(self.query.get("max-keys", self.storage.page)), self.storage.page)
        with self.storage._lock:
            held = dict(self.storage.buckets[self.bucket])
        rows, last, folders = list[str](), "", list[str]()
        keys = sorted((key for key in held if key.startswith(prefix) and key > after), key=str.encode)
        code = quote if self.query.get("encoding-type") == "url" else escape
        left = iter(keys)
        more = False
        for key in left:
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            folder = key[: cut + 1] if cut >= 0 else ""
            if folder and (folder in folders or (after.endswith(delimiter) and after == folder)):
                last = max(last, key)
                continue
            if len(rows) + len(folders) >= most:
                more = True
                break
            if folder:
                folders.append(folder)
            else:
                one = held[key]
                rows.append(
                    f"<Contents><Key>{code(key)}</Key><Generation>{one.generation}</Generation><MetaGeneration>1"
                    f"</MetaGeneration><LastModified>{one.changed:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
                    f'<ETag>"{md5(one.content).hexdigest()}"</ETag><Size>{len(one.content)}</Size></Contents>'
                )
            last = key
        encoding = "<EncodingType>url</EncodingType>" if code is quote else ""
        onward = f"<NextContinuationToken>{last.encode().hex()}</NextContinuationToken>" if more else ""
        rows += [f"<CommonPrefixes><Prefix>{code(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        self.send(
            200,
            f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>"
            f"<Name>{self.bucket}</Name><Prefix>{code(prefix)}</Prefix>{encoding}<IsTruncated>{str(more).lower()}"
            f"</IsTruncated>{onward}{''.join(rows)}</ListBucketResult>".encode(),
        )

    def get(self) -> None:
        with self.storage._lock:
            held = self.storage.buckets[self.bucket].get(self.key)
        wanted = self.http.headers.get("x-goog-if-generation-match")
        if held is None:
            return self.refuse(404, "NoSuchKey")
        if wanted not in (None, str(held.generation)):
            return self.refuse(412, "PreconditionFailed")
        content, status, headers = held.content, 200, self.facts(held)
        if (given := self.http.headers.get("Range", "")).startswith("bytes="):
            start, _, end = given[6:].partition("-")
            first = int(start) if start else max(0, len(content) - int(end))
            if first >= len(content):
                return self.refuse(416, "InvalidRange")
            stop = min(int(end) + 1, len(content)) if start and end else len(content)
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(content)}"
            content, status = content[first:stop], 206
        return self.send(status, content, headers)

    head = get

    def facts(self, held: Held) -> dict[str, str]:
        return {
            "x-goog-generation": str(held.generation),
            "x-goog-metageneration": "1",
            "x-goog-stored-content-length": str(len(held.content)),
            "ETag": f'"{md5(held.content).hexdigest()}"',
            "Last-Modified": format_datetime(held.changed, usegmt=True),
        }

    def put(self) -> None:
        if "partNumber" in self.query:
            self.storage._uploads[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
            return self.send(200, b"", {"ETag": f'"{md5(self.body).hexdigest()}"'})
        return self.keep(self.body)

    def keep(self, content: bytes, answer: bytes = b"") -> None:
        wanted = self.http.headers.get("x-goog-if-generation-match")
        storage = self.storage
        with storage._lock:
            there = storage.buckets[self.bucket].get(self.key)
            fits = wanted is None or wanted == str(there.generation if there else 0)
            if fits:
                held = Held(content, next(storage._generations), datetime.now(UTC).replace(microsecond=0))
                storage.buckets[self.bucket][self.key] = held
        if not fits:
            return self.refuse(412, "PreconditionFailed")
        return self.send(200, answer, self.facts(held))

    def post(self) -> None:
        if "uploads" in self.query:
            upload = str(next(self.storage._generations))
            self.storage._uploads[upload] = {}
            told = f"<UploadId>{upload}</UploadId>"
            answer = (
                f"<InitiateMultipartUploadResult><Bucket>{self.bucket}</Bucket>{told}</InitiateMultipartUploadResult>"
            )
            return self.send(200, answer.encode())
        parts = self.storage._uploads.pop(self.query["uploadId"])
        content = b"".join(part for _, part in sorted(parts.items()))
        etag = f"<ETag>{md5(content).hexdigest()}</ETag>"
        return self.keep(content, f"<CompleteMultipartUploadResult>{etag}</CompleteMultipartUploadResult>".encode())

    def delete(self) -> None:
        if "uploadId" in self.query:
            self.storage._uploads.pop(self.query["uploadId"], None)
            return self.send(204, b"")
        with self.storage._lock:
            objects = self.storage.buckets[self.bucket]
            held = objects.get(self.key)
            if there := held and self.query.get("generation") in (None, str(held.generation)):
                del objects[self.key]
        return self.send(204, b"") if there else self.refuse(404, "NoSuchKey")

    def refuse(self, status: int, code: str) -> None:
        said = (
            f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>It is {code}.</Message></Error>"
        )
        self.send(status, said.encode(), {"Content-Type": "application/xml; charset=UTF-8"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.http.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.http.send_header(name, value)
        self.http.end_headers()
        if self.http.command != "HEAD":
            self.http.wfile.write(body)
