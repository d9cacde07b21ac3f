"""What delta-rs and a store say of a failure: whether it will be said again, and its line that tells most."""

from __future__ import annotations

import re

# What delta-rs passes on of a store or a disk that will refuse the next commit too.
REFUSAL = re.compile(
    r"No space left|Disk quota exceeded|File too large|Read-only file system|Permission denied|NotImplemented"
    r"|AccessDenied|AllAccessDisabled|AccountProblem|ExpiredToken|InvalidAccessKeyId|InvalidToken|SignatureDoesNotMatch"
    r"|AuthenticationFailed|AuthorizationFailure|AuthorizationPermissionMismatch|ContainerNotFound|AccountIsDisabled"
    r"|RequestTimeTooSkewed|NoSuchBucket|QuotaExceeded|StorageFull|InsufficientStorage|403 Forbidden|401 Unauthorized"
)
# What delta-rs says of a log whose entries or checkpoint are damaged or missing.
DAMAGED_LOG = re.compile(r"Invalid Checkpoint|Parquet error|Json error|Generic delta kernel error|Expected contiguous")
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|[↳└]")  # of delta-rs' chains of causes
_STORE_CODE = re.compile(r"<Code>(\w+)</Code>")


def first_line(message: str) -> str:
    """The first line of an error, or where that says little its cause, the last of those below it; and the store's own
    code, which stands in a body further down.
    """
    lines = [_DECORATION.sub("", line).strip() for line in message.splitlines()]
    says_little = lines[0].startswith("Generic ") and ":" not in lines[0] and len(lines) > 1
    first = f"{lines[0]}: {lines[-1]}" if says_little else lines[0]
    first = first.removeprefix("Kernel error -> ").partition("<")[0][:300].rstrip()
    code = _STORE_CODE.search(message)
    return f"{first} ({code[1]})" if code else first
