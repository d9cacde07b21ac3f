"""The ledger of a catalog: numbered entries beside its tables, each with the balance after it.

An entry is written as the very next one, by a write that fails if the name is taken, as a commit of a Delta table is.
So of two processes on whatever machines one comes first, and the other writes again on what the first has written. It
is no Delta table itself: an entry is one request to the store, a commit of delta-rs five and two files.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sightflow.blocks.money.balance import Balance, Block
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError

_logger = logging.getLogger(__name__)

What = Literal["reserve", "settle", "recover"]

_ATTEMPTS = 200
_NOTED_EVERY = 16
"""Entries; a reader begins at the newest that has been noted."""
_TRUSTED_SECONDS = 600.0
"""How long a process goes by what it has read: entries are removed after days."""
_KEPT_DAYS = 7
_NUMBER = re.compile(r"[0-9]{20}")


class Entry(BaseModel):
    """One change: what was done, to which block, when by the clock of who did it, and the balance after it.

    `first_of_days`: the first entry of each of the latest days, by which old ones are found and removed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: str = Field(max_length=64)
    number: int = Field(ge=0)
    at: datetime
    what: What
    block_id: str = Field(max_length=300)
    block: Block
    balance: Balance
    first_of_days: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)


Change = tuple[What, str, Block, bool]
"""What is done, to which block, what it becomes, and whether it stays open."""


class Ledger:
    """The entries at `CATALOG/ledger/`. For several threads; one write at a time.

    Every method raises StoreError if the store cannot be reached, refuses us, or holds what is no ledger.
    """

    def __init__(self, store: ObjectStore, catalog_uri: str) -> None:
        self._store = store
        self._folder = f"{catalog_uri.rstrip('/')}/ledger"
        self._lock = threading.Lock()
        self._newest: Entry | None = None
        self._known_at: float | None = None

    def balance(self) -> Balance:
        """What counts now, read from the store."""
        with self._lock:
            return self._read_on()

    def change(self, decide: Callable[[Balance], Change | None], fresh: bool = False) -> Balance:
        """Commit what is decided about the newest balance; it is decided again if another process came first.

        None changes nothing. `fresh`: the newest balance is read before it is first decided; else what is known is
        taken for it, which the store refuses if it is not. Returns the balance after it.
        """
        with self._lock:
            balance = self._read_on() if fresh or not self._is_trusted() else self._known()
            for attempt in range(_ATTEMPTS):
                if (change := decide(balance)) is None:
                    return balance
                entry = self._entry(change)
                if self._store.create(self._uri(entry.number), entry.model_dump_json().encode()):
                    self._take(entry)
                    self._after_write(entry)
                    return entry.balance
                seen = self._read(entry.number)
                if seen is not None:
                    self._take(seen)
                    if seen.id == entry.id:  # written by a try whose answer was lost
                        return entry.balance
                balance = self._known()
                if attempt:  # others write too, or many have: then as far as there is anything to read
                    time.sleep(random.uniform(0, min(0.005 * 2**attempt, 1.0)))  # noqa: S311 - of waits
                    balance = self._read_on()
        raise StoreError(f"the ledger {self._folder} cannot be written: other processes came first every time")

    # --- entries ----------------------------------------------------------------------------------

    def _known(self) -> Balance:
        return self._newest.balance if self._newest else Balance()

    def _is_trusted(self) -> bool:
        # By a clock that goes on while a machine sleeps; one that was set back says nothing.
        return self._known_at is not None and 0 <= time.time() - self._known_at < _TRUSTED_SECONDS

    def _entry(self, change: Change) -> Entry:
        what, block_id, block, is_open = change
        at, number = datetime.now(UTC), self._newest.number + 1 if self._newest else 1
        firsts = dict(self._newest.first_of_days) if self._newest else {}
        firsts.setdefault(f"{at:%Y-%m-%d}", number)
        return Entry(
            id=uuid4().hex,
            number=number,
            at=at,
            what=what,
            block_id=block_id,
            block=block,
            balance=self._known().with_block(block_id, block, is_open),
            first_of_days=dict(list(firsts.items())[-_KEPT_DAYS:]),
        )

    def _take(self, entry: Entry) -> None:
        self._newest, self._known_at = entry, time.time()

    def _read_on(self) -> Balance:
        """Read what others have written since."""
        if not self._is_trusted():
            self._newest = self._noted()
            if self._newest is None:
                self._newest = self._listed()
                self._known_at = time.time()
                return self._known()  # nothing newer was there a moment ago
        while (following := self._read(self._newest.number + 1 if self._newest else 1)) is not None:
            self._newest = following
        self._known_at = time.time()
        return self._known()

    def _uri(self, number: int) -> str:
        return f"{self._folder}/{number:020d}.json"

    def _read(self, number: int) -> Entry | None:
        content = self._store.read(self._uri(number))
        if content is None:
            return None
        try:
            entry = Entry.model_validate_json(content)
        except ValidationError:
            entry = None
        if entry is None or entry.number != number:
            raise StoreError(
                f"{self._uri(number)} is no entry of a ledger: bring it back from a backup; or remove the whole folder "
                f"{self._folder}, and nothing counts as spent any more"
            )
        return entry

    # --- where to begin, and what may go ------------------------------------------------------------

    def _noted(self) -> Entry | None:
        """An entry not long before the newest; None if none is noted, or what is noted is not there."""
        content = self._store.read(f"{self._folder}/newest") or b""
        return self._read(int(content)) if content.isdigit() and len(content) <= 20 else None

    def _listed(self) -> Entry | None:
        """The newest entry that is listed; None if there is none at all."""
        numbers = self._numbers()
        if not numbers:
            return None
        if (entry := self._read(max(numbers))) is None:
            raise StoreError(f"the newest entry of {self._folder} cannot be read: it is listed and not there")
        return entry

    def _numbers(self) -> dict[int, str]:
        """The entries that there are: the URI of each, by its number."""
        found = (
            (uri.rpartition("/")[2].removesuffix(".json"), uri) for uri in self._store.list_prefix(self._folder + "/")
        )
        return {int(name): uri for name, uri in found if _NUMBER.fullmatch(name)}

    def _after_write(self, entry: Entry) -> None:
        """Note the newest entry from time to time, and remove those of more than a week ago; neither is missed."""
        with suppress(StoreError):
            if entry.number % _NOTED_EVERY == 0:
                self._store.write(f"{self._folder}/newest", str(entry.number).encode())
            firsts = list(entry.first_of_days.values())
            if len(firsts) == _KEPT_DAYS and entry.number == firsts[-1]:
                self._remove_before(firsts[0])

    def _remove_before(self, first: int) -> None:
        for number, uri in self._numbers().items():
            if number < first:
                self._store.remove(uri)
