"""What the errors of an S3 store mean."""

from __future__ import annotations

from sightflow.blocks.store.buckets.client import ErrorKind

TRANSIENT_CODES = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"}
)
DENIED_CODES = frozenset({"AccessDenied", "AllAccessDisabled", "Forbidden", "401", "403"})
CLOCK_CODES = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
BAD_KEY_CODES = frozenset(
    {"AccountProblem", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId"}
    | {"InvalidSecurity", "InvalidToken", "NotSignedUp", "SignatureDoesNotMatch", "TokenRefreshRequired"}
    | {"UnrecognizedClientException"}
)
REGION_CODES = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"})
FULL_CODES = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "507"})
CALLER_CODES = CLOCK_CODES | BAD_KEY_CODES | REGION_CODES | {"NoSuchBucket"}
"""What concerns every request of ours, whichever object it is about."""
MISSING_CODES = frozenset({"NoSuchKey", "404"})
REPLACED_CODES = frozenset({"ConditionalRequestConflict", "PreconditionFailed", "412"})
"""The first: another conditional write of the same object was under way."""


def lacks_credentials(error: BaseException) -> bool:
    """Whether the SDK has found no keys to sign with, so that nothing was sent."""
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError, ProfileNotFound

    return isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound)


def code_of(error: BaseException) -> str:
    """The S3 error code of an SDK error, or an empty string."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def message_of(error: BaseException) -> str:
    """What an SDK error says; it may repeat keys that were sent."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Message", ""))
    return str(error) or type(error).__name__


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    from aiohttp import ClientError
    from botocore.exceptions import ConnectionError as EndpointError
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status in (408, 429) or status >= 500 or code_of(error) in TRANSIENT_CODES
    lost = (ConnectionError, TimeoutError, ClientError, EndpointError, HTTPClientError)
    return isinstance(error, (*lost, IncompleteReadError, ResponseStreamingError))


def kind_of(error: BaseException) -> ErrorKind:
    """What an error of the SDK is about."""
    from botocore.exceptions import BotoCoreError, ParamValidationError

    if isinstance(error, BotoCoreError):
        about_one = is_transient(error) or isinstance(error, ParamValidationError)
        return ErrorKind.OTHER if about_one else ErrorKind.CALLER
    if getattr(error, "operation_name", "") == "AssumeRole":
        return ErrorKind.CALLER
    code = code_of(error)
    return next((kind for codes, kind in _KINDS if code in codes), ErrorKind.OTHER)


_KINDS = (
    (MISSING_CODES, ErrorKind.MISSING),
    (REPLACED_CODES, ErrorKind.REPLACED),
    (DENIED_CODES, ErrorKind.DENIED),
    (CALLER_CODES, ErrorKind.CALLER),
    (frozenset({"NotImplemented", "501"}), ErrorKind.UNSUPPORTED),
)
