"""Whether what came back for ListObjectsV2 is a listing: a gateway, a proxy or a sign-in page may answer in its place.

Such an answer has the status 200, and parsed as XML it is a listing of nothing. ListObjectsV2 in the S3 API reference
says what a listing holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from sightflow.blocks.store.buckets.listing import NotAListing

_ROOT = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:(?:<\?.*?\?>|<!--.*?-->)\s*)*<(?:[\w.-]+:)?([\w.-]+)", re.DOTALL)
_TRUNCATED = re.compile(rb"<(?:[\w.-]+:)?IsTruncated\s*>\s*(?:true|false)\s*</")
_SHOWN = 80
_LARGEST_ANSWER = 64 * 2**20  # a thousand keys of a kilobyte take some two
_LISTED = (200, 500)  # 500: botocore's word for an answer of 200 that is no XML


class AnswerTooLarge(Exception):
    """An answer that is no object, and larger than any that S3 gives."""


@cache
def bounded_session() -> type:
    """The SDK's HTTP session with a bound on what it holds of an answer: listings, heads, errors; never an object."""
    from aiobotocore.awsrequest import AioAWSResponse
    from aiobotocore.httpsession import AIOHTTPSession

    class BoundedAnswer(AioAWSResponse):  # type: ignore[misc]
        _content: bytes | None

        async def _content_prop(self) -> bytes:
            if self._content is None:
                held = bytearray()
                async for part in self.raw.content.iter_chunked(2**16):
                    held += part
                    if len(held) > _LARGEST_ANSWER:
                        self.raw.close()
                        raise AnswerTooLarge(f"it sent more than {_LARGEST_ANSWER >> 20} MiB that are no object")
                self._content = bytes(held)
            return self._content

    class BoundedSession(AIOHTTPSession):  # type: ignore[misc]
        async def send(self, request: Any) -> Any:
            is_object, request.stream_output = request.stream_output, True
            answer = await super().send(request)
            bounded = BoundedAnswer(answer.url, answer.status_code, answer.headers, answer.raw)
            if not is_object:
                await bounded.content
            return bounded

    return BoundedSession


def check_body(response_dict: Mapping[str, Any], **_: Any) -> None:
    """Raise NotAListing for a body that is no ListBucketResult; a handler of botocore's event `before-parse`."""
    status, body = response_dict["status_code"], response_dict["body"]
    root = _ROOT.match(body)
    name = root[1] if root else b""
    if status not in _LISTED or name == b"Error":
        return
    if name != b"ListBucketResult":
        raise NotAListing(f"it begins with {body[:_SHOWN].decode(errors='replace')!r}")
    if _TRUNCATED.search(body) is None:
        raise NotAListing("it does not say whether more follows (IsTruncated)")
