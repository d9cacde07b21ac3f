"""The folder of an export: files appear in it whole, and a killed export goes on where it was.

What is not whole lies in `.sightflow-export`, which is gone when the export is done; then `sightflow-export.json` says
what was exported, what the format could not hold, and which media could not be had.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Literal

from sightflow.schemas.failure import SightflowError, SpecError

STATE: Final = ".sightflow-export"
REPORT: Final = "sightflow-export.json"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Mode = Literal["w", "wb"]


class ExportFolder:
    """One folder, for one export at a time.

    `plan`: what is exported and how; a folder is gone on with only by the same plan. Raises SpecError if the folder
    holds anything else, SightflowError if another process is at it or it cannot be written.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        self.path = path
        self._plan = dict(plan)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Within this block the folder is ours; what went wrong with the disk is told in plain words.

        One that was killed when nothing was left to do but to clear up has its report already.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_content()
            self.state.mkdir(exist_ok=True)
            with (self.state / "lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise SightflowError(f"another export is writing into {self.path}; wait for it") from None
                self._take_plan()
                for abandoned in (*self.state.glob("*.part"), *self.state.glob("*.tmp")):
                    _remove(abandoned)
                try:
                    yield
                except SpecError:  # another command will be given: nothing of this one is gone on with
                    _remove(self.state)
                    raise
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise SightflowError(
                    f"no room for the export in {self.path}: {error.strerror}; what is there is whole: make room and "
                    "give the same command again"
                ) from None
            raise SightflowError(f"the export cannot be written into {self.path}: {error}") from None

    @property
    def state(self) -> Path:
        """Where lies what is not whole."""
        return self.path / STATE

    @property
    def report(self) -> dict[str, Any] | None:
        """The report of an export that was done here; None if none was."""
        try:
            content = json.loads((self.path / REPORT).read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def has(self, name: str) -> bool:
        """Whether a file is there, and so whole, with all media that belong into it."""
        return os.path.lexists(self.path / name)

    @contextmanager
    def file(self, name: str, mode: Mode = "w") -> Iterator[IO[Any]]:
        """A file that appears under its name at the end of the block; text is UTF-8, its lines end as written."""
        with self.temporary() as path:
            text = {"encoding": "utf-8", "newline": ""} if mode == "w" else {}
            with path.open(mode, **text) as stream:  # type: ignore[call-overload]
                yield stream
            self.place(path, name)

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A new empty file on the same disk; gone at the end of the block, unless it was given its place."""
        descriptor, name = tempfile.mkstemp(suffix=".part", dir=self.state)
        os.close(descriptor)
        os.chmod(name, 0o644)
        try:
            yield Path(name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    def place(self, path: Path, name: str) -> None:
        """Give a file that is whole its name."""
        final = self.path / name
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, final)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write the report, which makes the export done, and clear up."""
        with self.file(REPORT) as file:
            json.dump({**self._plan, **report}, file, ensure_ascii=False, indent=2)
            file.write("\n")
        self.clear()

    def clear(self) -> None:
        """Take away what is only needed until the export is done; the plan last, without which it is not gone on
        with.
        """
        for each in sorted(self.state.iterdir(), key=lambda path: path.name == "plan.json"):
            _remove(each)
        _remove(self.state)

    def _check_content(self) -> None:
        if self.report is not None and not self.state.exists():
            raise SpecError(f"{self.path} holds an export that is done; name another folder with --out, or remove it")
        if not self.state.exists() and any(self.path.iterdir()):
            raise SpecError(f"{self.path} is not empty; name another folder with --out")

    def _take_plan(self) -> None:
        place = self.state / "plan.json"
        try:
            begun = json.loads(place.read_text())
        except FileNotFoundError:
            with self.file(f"{STATE}/plan.json") as file:
                json.dump(self._plan, file, ensure_ascii=False)
            return
        except ValueError:
            begun = None
        if begun != json.loads(json.dumps(self._plan)):
            raise SpecError(
                f"{self.path} holds an export that was begun with other options; give the same ones to go on, or name "
                "another folder with --out"
            )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
