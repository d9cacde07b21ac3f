"""Notifications of Azure's Blob Storage through the storage queue that Event Grid delivers to."""

from __future__ import annotations

import re
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from sightflow.blocks.extras import require
from sightflow.blocks.store.azure.account import find_account, open_login
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.infra.service.notification_sources.message_source import Message, SourceAway
from sightflow.schemas.failure import SightflowError, SpecError
from sightflow.schemas.redaction import holds_user

_HOST = re.compile(r"([a-z0-9]{3,24})(?:\.z[0-9]{1,3})?\.queue\.(?:core|storage)\.[a-z0-9.-]+")
_EMULATED = re.compile(r"/(devstoreaccount[0-9])/")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,61}[a-z0-9])")
_KEEP_SECONDS = 60  # the receiver says how long a message is kept from others, not the queue
_MOST_AT_ONCE = 32  # messages of one request
_CALLS_AT_ONCE = 8  # a message is deleted by a request of its own
_POLL_SECONDS = 1.0  # a queue is asked; it does not wait
_NOT_MINE = frozenset({"MessageNotFound", "PopReceiptMismatch"})
_NOT_TO_LOOK = frozenset({"AuthorizationPermissionMismatch"})


def is_azure_queue(url: str) -> bool:
    """Whether an address is of a storage queue of Azure's, or of its emulator's account."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(_HOST.fullmatch(parts.hostname or "") or _EMULATED.match(parts.path))


class AzureQueue:
    """A storage queue, `https://ACCOUNT.queue.core.windows.net/NAME`, reached with what the environment holds for its
    account: AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, else a login.

    Raises SpecError if `url` is no address of a queue or holds a key, MissingExtra, and SightflowError if there is no
    such queue or it may not be read.
    """

    keep_every: float | None = _KEEP_SECONDS / 3

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if holds_user(url) or parts.query:
            raise SpecError(
                "the address of the queue holds a password or a key; leave it out: a queue is reached with the keys of "
                "the environment, e.g. AZURE_STORAGE_SAS_TOKEN, or a login"
            )
        account_url, _, self._name = url.rstrip("/").rpartition("/")
        if not is_azure_queue(url) or not _NAME.fullmatch(self._name):
            raise SpecError(f"{url} is no address of a queue; one is https://ACCOUNT.queue.core.windows.net/NAME")
        require("azure.storage.queue", "azure", "a storage queue of Azure's")
        from azure.core.exceptions import AzureError, HttpResponseError
        from azure.storage.queue import QueueClient

        named = _HOST.fullmatch(parts.hostname or "") or _EMULATED.match(parts.path)
        self._lock = threading.Lock()
        self._receipts: dict[str, str] = {}
        self._calls = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="azure-queue")
        try:
            credential = _credential(named[1] if named else "")
            self._client = QueueClient(account_url, self._name, credential, retry_total=2, read_timeout=30)
            self._client.peek_messages(max_messages=1)
        except (AzureError, ValueError) as error:
            if isinstance(error, HttpResponseError) and getattr(error, "error_code", "") in _NOT_TO_LOOK:
                return  # a SAS may let messages be taken, and not be looked at
            raise SightflowError(
                f"the queue {url} cannot be read: {_said(error)}; check its name, and the keys of its account or the "
                "role Storage Queue Data Message Processor"
            ) from None

    def receive(self, wait: float) -> list[Message]:
        until = time.monotonic() + wait
        while not (received := self._called(self._received)) and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_SECONDS))
        with self._lock:
            self._receipts |= {message.id: message.pop_receipt for message in received}
        return [
            Message(f"azure-queue://{self._name}/{message.id}", _text(message.content or ""), message.id)
            for message in received
        ]

    def _received(self) -> list[Any]:
        return list(
            self._client.receive_messages(
                messages_per_page=_MOST_AT_ONCE, max_messages=_MOST_AT_ONCE, visibility_timeout=_KEEP_SECONDS
            )
        )

    def keep(self, messages: Sequence[Message]) -> None:
        def keep(message: str, receipt: str) -> None:
            kept = self._client.update_message(message, receipt, visibility_timeout=_KEEP_SECONDS)
            self._receipts[message] = str(kept.pop_receipt)  # with which alone it can be deleted from now on

        self._for_each(keep, messages)

    def delete(self, messages: Sequence[Message]) -> None:
        self._for_each(self._client.delete_message, messages)
        for message in messages:
            self._receipts.pop(message.receipt, None)

    def _for_each(self, call: Callable[[str, str], object], messages: Sequence[Message]) -> None:
        """Call with each message and its receipt; what somebody else has received since comes again, or has gone."""
        from azure.core.exceptions import HttpResponseError

        def one(message: Message) -> None:
            if not (receipt := self._receipts.get(message.receipt)):
                return
            try:
                call(message.receipt, receipt)
            except HttpResponseError as error:
                if getattr(error, "error_code", "") not in _NOT_MINE:
                    raise

        with self._lock:  # or a message could be deleted by a receipt that is being replaced
            self._called(lambda: list(self._calls.map(one, messages)))

    def _called(self, call: Callable[[], Any]) -> Any:
        from azure.core.exceptions import AzureError

        try:
            return call()
        except AzureError as error:
            raise SourceAway(f"the queue {self._name} does not answer: {_said(error)}") from None


def _credential(account: str) -> Any:
    """What opens an account: its key, a shared access signature or a login; see `find_account`."""
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

    settings = ObjectStore(azure_account=account)
    found = find_account(settings)
    if found.key:
        return AzureNamedKeyCredential(account, found.key)
    return AzureSasCredential(found.sas) if found.sas else open_login(settings)


def _text(content: str) -> str:
    """What a message says: Event Grid sends its events in base64."""
    if content.lstrip().startswith(("{", "[")):
        return content
    try:
        return b64decode(content, validate=True).decode()
    except ValueError:
        return content


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
