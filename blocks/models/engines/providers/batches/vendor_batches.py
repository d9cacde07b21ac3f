"""What the vendors' batch APIs have in common: tries, what is asked only once, and lines of results."""

from __future__ import annotations

import json
import random
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sightflow.blocks.models.contract import (
    BatchDeclined,
    BatchDelivery,
    BatchLimits,
    BatchLine,
    BatchResult,
    Generated,
    GenerationRequest,
    RemoteBatch,
)
from sightflow.blocks.models.engines.providers.image_encoding import EncodedImage
from sightflow.blocks.models.engines.providers.messages import (
    CallRecord,
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    stop_reason,
)
from sightflow.blocks.models.engines.providers.metered import was_never_sent
from sightflow.blocks.models.engines.providers.rate_limits import Clock
from sightflow.blocks.models.engines.providers.transport.bounded_answers import within
from sightflow.schemas.failure import Failure, ModelError, is_about_this_machine
from sightflow.schemas.vision import VisionRequest

T = TypeVar("T")

TRANSFER_SECONDS = 3600.0
"""In which a file has to be sent or fetched as a whole."""
_WHO_KNOWS = (408, 409, 499, 504, 524)  # it may have begun all the same


class NotThere(Exception):
    """The vendor has nothing of this id."""


class BatchingEngine(Protocol):
    """What is asked of the engine whose requests are delivered."""

    account: Any
    clock: Clock
    rng: random.Random

    @property
    def deadline(self) -> float: ...
    def encode_media(self, request: VisionRequest) -> tuple[EncodedImage, ...]: ...
    def batch_body(self, request: ProviderRequest) -> dict[str, Any]: ...
    def read_batch_body(self, body: Any) -> ProviderResponse | ProviderError: ...
    def read_batch_error(self, status: int | None, error: Any) -> ProviderError: ...
    def batch_most(self, request: ProviderRequest) -> float: ...
    def batch_cost(self, answer: ProviderResponse | ProviderError, sent_at: datetime | None) -> float | None: ...
    def recorded(
        self, answer: ProviderResponse, record: CallRecord, in_batch: bool = False, sent_at: datetime | None = None
    ) -> Generated | Failure: ...
    def mapped(self, error: Exception) -> ProviderError: ...
    def redact(self, message: str) -> str: ...


class VendorBatches(BatchDelivery):
    """One model of one account, asked by batches. A subclass speaks a vendor's protocol."""

    def __init__(self, engine: BatchingEngine, limits: BatchLimits) -> None:
        self.engine, self.limits = engine, limits
        self.vendor = engine.account.vendor

    # --- what a protocol says -------------------------------------------------------------------

    @abstractmethod
    def wrapped(self, custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a direct request as a line of the file says it."""

    @abstractmethod
    def unwrapped(self, line: dict[str, Any]) -> tuple[str, Callable[[], ProviderResponse | ProviderError | None]]:
        """The id of a line of results, and what reads the rest; None of that for a request that was not begun."""

    @abstractmethod
    def send_file(self, file: Path, batch_id: str) -> str:
        """Upload once."""

    @abstractmethod
    def begin(self, input_file: str, batch_id: str) -> RemoteBatch:
        """Create once."""

    @abstractmethod
    def search(self, input_file: str | None, batch_id: str) -> RemoteBatch | None:
        """Look through the account's batches for the one that was created so."""

    @abstractmethod
    def retrieve(self, vendor_batch: str) -> RemoteBatch:
        """Ask once how a batch stands."""

    @abstractmethod
    def fetch_file(self, result_file: str, to: Path, most_bytes: int) -> None:
        """Download once."""

    @abstractmethod
    def stop(self, vendor_batch: str) -> None:
        """Cancel once."""

    @abstractmethod
    def uploaded(self, batch_id: str) -> list[str]:
        """The ids of the files that were uploaded for a batch."""

    @abstractmethod
    def drop(self, file: str) -> None:
        """Remove a file once."""

    def forget(self, vendor_batch: str) -> None:
        """Remove the record of a batch, where a vendor does that."""

    # --- lines ----------------------------------------------------------------------------------

    def line(self, custom_id: str, each: GenerationRequest) -> BatchLine:
        request = ProviderRequest(each.request, each.prompt, self.engine.encode_media(each.request))
        said = self.wrapped(custom_id, self.engine.batch_body(request))
        content = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        return BatchLine(content + b"\n", self.engine.batch_most(request))

    def result(self, line: bytes, sent_at: datetime | None = None) -> BatchResult | None:
        try:
            custom_id, read = self.unwrapped(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        try:
            answer = read()
        except Exception as error:  # an SDK that trips over a strange reply raises anything
            answer = self.engine.mapped(error)
        if answer is None:
            return BatchResult(custom_id, None, 0.0)
        record = CallRecord(attempts=1)
        if isinstance(answer, ProviderResponse):
            record.served_id = answer.served_id
            record.outcome = self.engine.recorded(answer, record, in_batch=True, sent_at=sent_at)
        else:
            status = f"HTTP {answer.status}" if answer.status else "no answer"
            message = f"{self.vendor}: {status} in a batch: {self.engine.redact(answer.message)}"
            record.outcome = Failure(answer.as_cause, message)
        return BatchResult(custom_id, record.output, self.engine.batch_cost(answer, sent_at))

    # --- batches --------------------------------------------------------------------------------

    def upload(self, file: Path, batch_id: str) -> str:
        return self._ask("a file of requests", lambda: self.send_file(file, batch_id), TRANSFER_SECONDS)

    def create(self, input_file: str, batch_id: str) -> RemoteBatch:
        may_have_begun = was_lost = False
        for attempt in range(1, self.engine.account.max_attempts + 1):
            if not was_lost:
                try:
                    return within(self.engine.deadline, lambda: self.begin(input_file, batch_id))
                except Exception as error:  # every SDK has its own; what it means is the protocol's to say
                    answer, never_sent = self.engine.mapped(error), was_never_sent(error)
                told_no = answer.status is not None and answer.status < 500 and answer.status not in _WHO_KNOWS
                # Of a list that lags behind, nothing follows: what was heard perhaps is looked for, and not said again.
                was_lost = not (told_no or never_sent) and (answer.status is None or answer.status in _WHO_KNOWS)
                may_have_begun |= not (told_no or never_sent)
                if told_no and not (answer.status == 429 and self._waited(answer, attempt)):
                    if may_have_begun:
                        break
                    raise BatchDeclined(self._why("a batch", answer))
                if told_no:
                    continue
            if found := self.find(input_file, batch_id):
                return found
            if not self._waited(answer, attempt):
                break
        raise ModelError(f"{self._why('a batch', answer)}; whether it has begun is looked up by: sightflow collect")

    def find(self, input_file: str | None, batch_id: str) -> RemoteBatch | None:
        return self._ask("the list of batches", lambda: self.search(input_file, batch_id))

    def has_file(self, batch_id: str) -> bool:
        return bool(self._ask("the list of files", lambda: self.uploaded(batch_id)))

    def look_up(self, vendor_batch: str) -> RemoteBatch | None:
        try:
            return self._ask("how a batch stands", lambda: self.retrieve(vendor_batch))
        except NotThere:
            return None

    def download(self, result_file: str, to: Path, most_bytes: int) -> bool:
        try:
            self._ask(
                "a file of results",
                lambda: self.fetch_file(result_file, to, most_bytes),
                TRANSFER_SECONDS,
                again_if_not_there=True,  # a file that was made a moment ago
            )
        except NotThere:
            return False
        return True

    def cancel(self, vendor_batch: str) -> None:
        try:
            self._ask("the end of a batch", lambda: self.stop(vendor_batch))
        except NotThere:
            return

    def remove(self, files: Sequence[str], vendor_batch: str | None, batch_id: str = "") -> None:
        left = self._ask("the list of files", lambda: self.uploaded(batch_id)) if batch_id else []
        for file in dict.fromkeys([*files, *left]):
            try:
                self._ask("the removal of a file", lambda file=file: self.drop(file))  # type: ignore[misc]
            except NotThere:
                continue
        if vendor_batch is not None:
            try:
                self._ask("the removal of a batch", lambda: self.forget(vendor_batch))
            except NotThere:
                return

    # --- tries ----------------------------------------------------------------------------------

    def _ask(
        self, what: str, call: Callable[[], T], seconds: float | None = None, again_if_not_there: bool = False
    ) -> T:
        """What a call returns, tried again where that may help. Raises NotThere, and ModelError for all else."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return within(seconds or self.engine.deadline, call)
            except Exception as error:  # every SDK has its own; what it means is the protocol's to say
                if is_about_this_machine(error):
                    raise
                answer = self.engine.mapped(error)
            is_missing = answer.status == 404
            may_pass = answer.retryable or (is_missing and again_if_not_there)
            if may_pass and self._waited(answer, attempt):
                continue
            if is_missing:
                raise NotThere(what)
            raise ModelError(self._why(what, answer))

    def _waited(self, answer: ProviderError, attempt: int) -> bool:
        """Wait before the next try; False if there is to be none."""
        account = self.engine.account
        wait = answer.requested_wait(self.engine.clock.epoch())
        if attempt >= account.max_attempts or (wait or 0) > account.longest_wait:
            return False
        self.engine.clock.wait(answer.backoff(attempt, wait, self.engine.rng), threading.Event())
        return True

    def _why(self, what: str, answer: ProviderError) -> str:
        said, account = self.engine.redact(answer.message), self.engine.account
        if answer.fatal:
            reason = stop_reason(answer, said, account.model_id, account.successor, account.key_variables)
            return f"{self.vendor}: {reason}"
        status = f"HTTP {answer.status}" if answer.status else "no answer"
        return f"{self.vendor} does not give {what}: {status}: {said}"
