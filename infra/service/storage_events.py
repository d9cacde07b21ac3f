"""The bridge from storage notifications to runs: many uploads become few runs, and none is lost on the way.

A message leaves its source only after its objects stand in a manifest in the store; the manifest stays there until a
run has seen to it, and is announced as long as it waits.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from prometheus_client import Counter

from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.blocks.store.patterns import source_filter
from sightflow.infra.service.announcements import Announcer
from sightflow.infra.service.notification import MalformedNotification, Upload, uploads_in
from sightflow.infra.service.notification_sources.message_source import Message, MessageSource, SourceAway
from sightflow.schemas.failure import Cause, Failure, Stage, StoreError
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.quarantine import FailedItem, quarantine_rows
from sightflow.tasks.open import open_catalog

_MESSAGES = Counter("sightflow_messages", "Storage notifications made durable", ["catalog", "outcome"])
_OBJECTS = Counter("sightflow_uploaded_objects", "Objects written into manifests", ["catalog"])
_REMEMBERED = 100_000  # uploads by which a notification that comes twice is known
_IDLE_WAIT = 5.0  # SIGTERM is heard so long after, at the latest
_PAUSE = 2.0
_MOST_MESSAGES = 10_000  # of a batch, whose objects may be few
_MOST_UNREADABLE = 32 * 2**20  # characters of a batch that are no notifications
_MOST_QUARANTINED = 2**20  # characters of one of them


@dataclass(frozen=True)
class Window:
    """When a batch is closed: at so many objects, or so many seconds after its first message."""

    objects: int = 1000
    seconds: float = 5.0


@dataclass
class Batch:
    """Messages that are not yet durable, without what they say, and the objects they tell of, each once."""

    opened: float = 0.0
    uris: dict[str, None] = field(default_factory=dict)
    uploads: list[Upload] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    unreadable: list[tuple[Message, str]] = field(default_factory=list)
    unreadable_size: int = 0

    def is_full(self, window: Window) -> bool:
        """Whether it is closed before its time."""
        return (
            len(self.uris) >= window.objects
            or len(self.messages) >= _MOST_MESSAGES
            or self.unreadable_size >= _MOST_UNREADABLE
        )


class Bridge:
    """Gathers what a source says into manifests of one catalog. `say` is told in words what happens."""

    def __init__(
        self,
        spec: EnrichmentSpec,
        source: MessageSource,
        window: Window,
        say: Callable[[str], None],
        again_seconds: float = 120.0,
    ) -> None:
        self._source, self._window, self._say = source, window, say
        self._catalog = open_catalog(spec)
        self._manifests = Manifests(self._catalog)
        self._in_source = source_filter(spec.source, spec.catalog)
        self._announcer = Announcer(self._manifests, spec.catalog, again_seconds, say)
        self._keeper = _Keeper(source, say)
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def run(self, stop: threading.Event) -> None:
        """Go on until `stop` is set; then make durable and announce what was received."""
        self._announcer.start()
        self._keeper.start()
        try:
            self._gather(stop)
        finally:
            self._keeper.stop()
        self._announcer.stop()

    def _gather(self, stop: threading.Event) -> None:
        batch = self._new_batch()
        while not stop.is_set():
            if not (self._announcer.is_alive() and self._keeper.is_alive()):
                raise RuntimeError("what announces manifests or keeps messages has ended; see its traceback above")
            left = batch.opened + self._window.seconds - time.monotonic() if batch.messages else _IDLE_WAIT
            if left <= 0 or batch.is_full(self._window):
                batch = self._persist(batch, stop)
                continue
            try:
                received = self._source.receive(left)
            except SourceAway as error:
                self._say(f"{error}; it is asked again")
                stop.wait(_PAUSE)
                continue
            if received and not batch.messages:
                batch.opened = time.monotonic()
            for message in received:
                self._read(message, batch)
        self._persist(batch, stop)

    def _new_batch(self) -> Batch:
        batch = Batch()
        self._keeper.messages = batch.messages
        return batch

    def _read(self, message: Message, batch: Batch) -> None:
        batch.messages.append(replace(message, body=""))
        try:
            uploads = uploads_in(message.body)
        except MalformedNotification as error:
            cut = replace(message, body=message.body[:_MOST_QUARANTINED])
            batch.unreadable.append((cut, str(error)))
            batch.unreadable_size += len(cut.body)
            uploads = list(error.uploads)
        for upload in uploads:
            known = upload.event and (upload.uri, upload.event) in self._seen
            if not known and self._in_source(upload.uri):
                batch.uris[upload.uri] = None
                batch.uploads.append(upload)

    def _persist(self, batch: Batch, stop: threading.Event) -> Batch:
        """Make a batch durable, trying until the store takes it; return the next, empty one.

        When the bridge is stopped meanwhile, the messages stay with their source.
        """
        while batch.messages:
            try:
                self._write(batch)
                break
            except (StoreError, OSError) as error:
                self._say(f"{len(batch.messages):,} messages wait, for the store does not take them: {error}")
            if stop.wait(_PAUSE):
                break
        return self._new_batch()

    def _write(self, batch: Batch) -> None:
        if batch.unreadable:
            self._catalog.quarantine(quarantine_rows(_failed_items(batch.unreadable)))
            self._say(
                f"{len(batch.unreadable):,} messages, or records in them, are no notifications; see the quarantine"
            )
        if batch.uris:
            manifest = self._manifests.write(list(batch.uris))
            self._say(f"{len(batch.uris):,} objects of {len(batch.messages):,} messages: {manifest.rpartition('/')[2]}")
            self._announcer.tell(manifest)
        catalog = self._catalog.uri
        _OBJECTS.labels(catalog).inc(len(batch.uris))
        _MESSAGES.labels(catalog, "quarantined").inc(len(batch.unreadable))
        _MESSAGES.labels(catalog, "taken").inc(len(batch.messages) - len(batch.unreadable))
        for upload in batch.uploads:
            if upload.event:
                self._seen[upload.uri, upload.event] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        try:
            self._source.delete(batch.messages)
        except SourceAway as error:
            self._say(f"{error}; what is durable comes again, and costs nothing")


class _Keeper(threading.Thread):
    """Has the source keep the `messages` of a batch for as long as they are not durable."""

    def __init__(self, source: MessageSource, say: Callable[[str], None]) -> None:
        super().__init__(name="keeper", daemon=True)
        self.messages: list[Message] = []
        self._source, self._say = source, say
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        away = False
        while not self._stopped.wait(self._source.keep_every):
            try:
                if messages := list(self.messages):
                    self._source.keep(messages)
                    away = False
            except SourceAway as error:
                if not away:
                    self._say(f"{error}; messages that wait may come again, and cost nothing")
                away = True


def _failed_items(unreadable: Sequence[tuple[Message, str]]) -> list[FailedItem]:
    """Messages that are no notifications, each once, with its body."""
    by_uri: dict[str, FailedItem] = {}
    for message, reason in unreadable:
        failure = Failure(Cause.MALFORMED, reason, Stage.NOTIFY, raw_reply=message.body)
        digest = hashlib.sha256(message.body.encode()).hexdigest()[:32]
        by_uri.setdefault(message.uri, FailedItem(message.uri, "notification", digest, failure))
    return list(by_uri.values())
