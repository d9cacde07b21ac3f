"""Announcing: a manifest that waits in the store is told to Prefect, whose automation starts a run for it.

Told again while it waits, since an event, a run or a server may be lost after it was told; each time after twice as
long, and at most a few times, since what takes a run down each time must not do so for ever. The next reconcile finds
what then is left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, Resource

from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.infra.service.deployments import UPLOADS_EVENT, resource_of
from sightflow.schemas.failure import StoreError

MOST_TIMES = 5
_PAUSE = 0.2
_AWAY_PAUSE = 2.0


@dataclass
class _Announcement:
    times: int
    next_at: float


class Announcer(threading.Thread):
    """Announces the manifests of one catalog: what is given to `tell` at once, what still waits after `again_seconds`.

    `say` is told in words what happens.
    """

    def __init__(self, manifests: Manifests, catalog: str, again_seconds: float, say: Callable[[str], None]) -> None:
        super().__init__(name="announcer", daemon=True)
        self._manifests, self._catalog, self._again, self._say = manifests, catalog, again_seconds, say
        self._announcements: dict[str, _Announcement] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._look_at = 0.0  # at once: what an earlier bridge has left

    def tell(self, manifest: str) -> None:
        """Announce this one as soon as the server takes it."""
        with self._lock:
            self._announcements[manifest] = _Announcement(0, 0.0)

    def stop(self) -> None:
        """Announce what is due, if the server is there, and end."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        away = False
        while not (self._stopped.is_set() and (away or not self._due())):
            try:
                self._look()
                for manifest in self._due():
                    announce(manifest, self._catalog)
                    self._note(manifest)
                if away:
                    self._say("the Prefect server is there again")
                away = False
            except (httpx.HTTPError, StoreError, OSError) as error:
                if not away:
                    self._say(f"cannot announce, and tries on: {type(error).__name__}: {error}")
                away = True
            self._stopped.wait(_AWAY_PAUSE if away else _PAUSE)

    def _look(self) -> None:
        """See which manifests wait, once in a while: those that are gone need no more telling."""
        if time.monotonic() < self._look_at:
            return
        waiting = self._manifests.waiting()
        now = time.monotonic()
        with self._lock:
            known = {
                manifest: announcement
                for manifest, announcement in self._announcements.items()
                if manifest in waiting or not announcement.times
            }
            self._announcements = {
                manifest: known.get(manifest, _Announcement(0, now)) for manifest in {*waiting, *known}
            }
        self._look_at = now + self._again

    def _due(self) -> list[str]:
        now = time.monotonic()
        with self._lock:
            due = [
                m
                for m, announcement in self._announcements.items()
                if announcement.next_at <= now and announcement.times < MOST_TIMES
            ]
        return sorted(due)

    def _note(self, manifest: str) -> None:
        with self._lock:
            announcement = self._announcements[manifest]
            announcement.next_at = time.monotonic() + self._again * 2**announcement.times
            announcement.times += 1
        again = f", for the {announcement.times}. time, for no run has finished it" if announcement.times > 1 else ""
        self._say(f"announced {manifest.rpartition('/')[2]}{again}")
        if announcement.times == MOST_TIMES:
            self._say(f"{manifest} is left to the next reconcile")


def announce(manifest: str, catalog: str) -> None:
    """Give Prefect one event, and return when the server has taken it. Raises httpx.HTTPError if it does not."""
    resource = Resource({"prefect.resource.id": resource_of(catalog), "manifest": manifest})
    event = Event(event=UPLOADS_EVENT, resource=resource)
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()
