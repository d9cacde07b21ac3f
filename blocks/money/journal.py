"""The journal of one process: each paid request is written down before it is sent, and its answer when it is there.

It is a file of this machine, which outlives a process that is killed: what a write has returned from is in the kernel.
By it the next process settles to the cent what a dead one has spent, and uses the answers that were paid for. After the
machine itself has died nothing is concluded from what it does not hold.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from sightflow.schemas.failure import StoreRefusal
from sightflow.schemas.object_uri import ObjectUri, Scheme

_OPEN, _SETTLED, _NEW = ".journal", ".answers", ".new"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_FOREIGN_SECONDS = 24 * 3600.0
"""How old a journal of another machine, or of this one before it was started anew, is before it counts as left."""
_LATEST_BYTES = 64 * 2**20
"""Of a journal, in which answers are looked for: those before have been published long since."""
_LINE_BYTES = 128 * 2**20
"""Of a line: more than the longest answer takes that is read of a provider. A longer one is none of ours."""
_MOST = 10**21
"""Nanodollars, as the ledger takes them."""
_MOST_BYTES = 512 * 2**20
"""Of all journals together, the newest first: a budget that is met every night leaves one every night."""
KEPT_SECONDS = 40 * 24 * 3600.0
"""How long answers wait for a run that asks for them: longer than the budget of a month can keep runs from it."""


def journal_folder(catalog_uri: str) -> Path:
    """Where the journals of a catalog lie: in it, or for one in a bucket with the state of this user (`XDG_STATE_HOME`,
    else `~/.local/state`).
    """
    uri = ObjectUri.parse(catalog_uri)
    if uri.scheme is Scheme.FILE:
        return Path(uri.local_path) / "journals"
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # by the specification it is to be ignored then
        try:
            state = str(Path.home() / ".local" / "state")
        except RuntimeError:
            why = "there is no home folder in which the journal of paid requests could be kept"
            raise StoreRefusal(f"{why}; set XDG_STATE_HOME to a folder that stays") from None
    return Path(state) / "sightflow" / "journals" / sha256(catalog_uri.encode()).hexdigest()[:24]


def boot_id() -> str:
    """What tells one start of this machine from the next, and from other machines; empty where nothing does."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


class Journal:
    """The file of one process and run, held locked for as long as both last. For several threads.

    `asks`: what tells that which is asked by the run's spec from what another spec of the same catalog asks.
    """

    def __init__(self, folder: Path, run: str, asks_anew: bool, asks: str = "") -> None:
        self.id = uuid4().hex
        self._folder, self._lock = folder, threading.Lock()
        new = folder / f"{self.id}{_NEW}"
        with _refused(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)  # before it has its name, or it would pass for a dead one's
            self._write({"boot": boot_id(), "run": run, "anew": asks_anew, "asks": asks})
            new.rename(folder / f"{self.id}{_OPEN}")

    def sent(self, number: int, block_id: str, bound: int) -> None:
        """Write down a request that is to be sent. Raises StoreRefusal if that cannot be done: then it must not be."""
        with _refused(self._folder):
            self._write({"sent": number, "block": block_id, "bound": bound})

    def settled(self, number: int, known: int, unknown: int, key: str, answer: Mapping[str, Any] | None) -> None:
        """Write down what became of a request, with its answer, if it was paid for."""
        kept = {"key": key, "answer": answer} if answer else {}
        with _refused(self._folder):
            self._write({"settled": number, "known": known, "unknown": unknown, **kept})

    def _write(self, line: Mapping[str, Any]) -> None:
        # It begins on a line of its own: what a full disk has cut short before it spoils nothing.
        content = b"\n" + json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            while content:
                content = content[os.write(self._file, content) :]

    def close(self, keep_answers: bool) -> None:
        """Let go of it, when the ledger holds all of it. Answers that may not have been published are kept."""
        path = self._folder / f"{self.id}{_OPEN}"
        with suppress(OSError):
            path.rename(path.with_suffix(_SETTLED)) if keep_answers else path.unlink()
        self.leave()

    def leave(self) -> None:
        """Let go of it as a dead process does: who comes next settles what it says."""
        with self._lock:  # whoever writes later is refused: by then the number may be that of another file
            file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


@dataclass
class Account:
    """What a journal says of one block: settled nanodollars, and the bounds of what is still under way."""

    known: int = 0
    unknown: int = 0
    under_way: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftJournal:
    """A journal whose process is gone. `is_whole`: it holds everything that the process has sent."""

    id: str
    accounts: Mapping[str, Account]
    is_whole: bool
    path: Path

    def close(self) -> None:
        """It has been settled; its answers stay."""
        self.path.rename(self.path.with_suffix(_SETTLED))


def left_journals(folder: Path) -> Iterator[LeftJournal]:
    """Those whose process has died, each locked while it is looked at, so that one process settles it."""
    for path in sorted(folder.glob(f"*{_OPEN}")):
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists():
                continue
            lines = _lines(path)
            is_ours = next(lines, {}).get("boot") == (boot_id() or None)
            if is_ours or time.time() - path.stat().st_mtime > _FOREIGN_SECONDS:
                yield LeftJournal(path.stem, _accounts(lines), is_ours, path)
        except OSError:
            continue  # its process lives
        finally:
            os.close(file)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Held by one thread of one process at a time."""
    with _refused(folder):
        file = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except BaseException:
            os.close(file)
            raise
    try:
        yield
    finally:
        os.close(file)


def _accounts(lines: Iterator[dict[str, Any]]) -> dict[str, Account]:
    by_block: dict[str, Account] = {}
    block_of: dict[int, str] = {}
    for line in lines:
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            if "sent" in line:
                block_of[int(line["sent"])] = str(line["block"])
                account = by_block.setdefault(str(line["block"]), Account())
                account.under_way[int(line["sent"])] = _amount(line["bound"])
            else:
                known, unknown = _amount(line["known"]), _amount(line["unknown"])
                account = by_block[block_of.pop(int(line["settled"]))]
                account.known += known
                account.unknown += unknown
                del account.under_way[int(line["settled"])]
    return by_block


def _amount(given: Any) -> int:
    """Nanodollars as a journal has them. Raises ValueError for what is none: then the request counts as under way."""
    amount = int(given)
    if not 0 <= amount <= _MOST:
        raise ValueError("no amount of money")
    return amount


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; the last may have been cut short, and what is none is passed over."""
    with path.open("rb") as file:
        for _, content in _placed(file):
            if (line := _line(content)) is not None:
                yield line


def _placed(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file from where it stands, each with its place; of one that is too long only the beginning."""
    while True:
        place = file.tell()
        if not (content := file.readline(_LINE_BYTES)):
            return
        yield place, content
        while len(content) == _LINE_BYTES and not content.endswith(b"\n"):
            content = file.readline(_LINE_BYTES)


def _line(content: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


class LeftAnswers:
    """The answers that processes of this machine were given and have not published, by what was asked. For threads.

    Only their places in the files are kept in memory. `anew`: those that runs were given which ask again what is in
    quarantine, and no others; or the others, and not those. `asks`: as in `Journal`.
    """

    def __init__(self, folder: Path, anew: bool, asks: str = "") -> None:
        self._folder, self._anew, self._asks, self._lock = folder, anew, asks, threading.Lock()
        self._seen: set[Path] = set()
        self._room = _MOST_BYTES
        self._ours: list[Path] = []
        self._places: dict[str, list[tuple[Path, int]]] = {}

    def look(self) -> None:
        """Take in what processes have left since; what nobody has asked for in so long goes."""
        with self._lock:
            new = [(_age(path), path) for path in set(self._folder.glob(f"*{_SETTLED}")) - self._seen]
            for age, path in sorted(new):
                self._seen.add(path)
                with suppress(OSError):
                    if age > KEPT_SECONDS:
                        path.unlink(missing_ok=True)
                        continue
                    self._take_in(path)

    def _take_in(self, path: Path) -> None:
        begins = next(_lines(path), {})
        if bool(begins.get("anew")) is not self._anew:
            return
        if begins.get("asks", "") == self._asks:
            self._ours.append(path)
        size = path.stat().st_size
        wanted = min(size, _LATEST_BYTES, self._room)
        self._room -= wanted
        with path.open("rb") as file:
            file.seek(size - wanted)
            for place, content in _placed(file):
                if (line := _line(content)) and isinstance(key := line.get("key"), str):
                    self._places.setdefault(key, []).append((path, place))

    def take(self, key: str) -> dict[str, Any] | None:
        """An answer to this, which is given once; None if there is none."""
        with self._lock:
            places = self._places.get(key)
            while places:
                path, place = places.pop()
                with suppress(OSError), path.open("rb") as file:
                    file.seek(place)
                    line = _line(file.readline(_LINE_BYTES))
                    if line and line.get("key") == key and isinstance(line.get("answer"), dict):
                        return dict(line["answer"])
        return None

    def forget(self) -> None:
        """Remove those of runs that asked the same: all that they are about has been published."""
        with self._lock:
            for path in self._ours:
                path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    """Seconds since a file was written to; of one that has gone meanwhile 0."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


@contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """What the operating system says of a journal, as a StoreRefusal."""
    try:
        yield
    except OSError as error:
        raise StoreRefusal(
            f"the journal of paid requests cannot be written in {folder}: {error.strerror}; make room or give rights "
            "there, or, for a catalog in a bucket, set XDG_STATE_HOME to another folder"
        ) from None
