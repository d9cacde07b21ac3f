"""What the vendors' batch services have in common on loopback: files, jobs that end as told, and odd results."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RUNNING, COMPLETED, EXPIRED, FAILED, CANCELLED = "running", "completed", "expired", "failed", "cancelled"


@dataclass
class Job:
    """A batch as the vendor has it.

    `results`: a file of results and, where there is one, of errors, by id. `paid`: what it put on the meter.
    """

    id: str
    input_file: str
    name: str
    model: str
    state: str = RUNNING
    ends: str = COMPLETED
    looks: int = 0
    results: list[str] = field(default_factory=list)
    paid: Counter[str] = field(default_factory=Counter)


class BatchService:
    """Keeps files and does jobs as soon as they are created, whoever looks at them: all of their lines, or as many as
    `share` says.

    `do`: answers one line, with what it has of id, status and body; `meter`: counts what was answered and so paid.
    `written`: a result as a line of a file, and whether that is the file of errors. `polls`: so many looks find a job
    that has not been begun. `share`: of the lines that are done before it ends as `ends`. `tampered`: is given the
    lines of a file of results, and says what it holds instead.
    """

    def __init__(
        self,
        do: Callable[[dict[str, Any]], tuple[str, int, Any]],
        written: Callable[[str, int, Any], tuple[dict[str, Any], bool]],
        meter: Counter[str],
        id_key: str = "custom_id",
    ) -> None:
        self._do, self._written, self._meter, self._id_key = do, written, meter, id_key
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self.jobs: dict[str, Job] = {}
        self.removed: list[str] = []
        self.polls = 0
        self.share = 1.0
        self.ends = COMPLETED
        self.tampered: Callable[[list[bytes]], list[bytes]] = lambda lines: lines
        self.largest = self.most_lines = 0

    def keep(self, content: bytes, name: str, prefix: str = "file-") -> str:
        """Take a file; return its id."""
        file = f"{prefix}{len(self.names):04d}"
        self.files[file], self.names[file] = content, name
        return file

    def remove(self, file: str) -> bool:
        """Whether the file was there."""
        self.removed.append(file)
        return self.files.pop(file, None) is not None

    def create(self, input_file: str, name: str, model: str = "") -> Job:
        """Begin a job. Raises KeyError if there is no such file."""
        content = self.files[input_file]
        self.largest = max(self.largest, len(content))
        self.most_lines = max(self.most_lines, content.count(b"\n"))
        job = Job(f"batch_{len(self.jobs):04d}", input_file, name, model)
        self.jobs[job.id] = job
        if not self.polls:
            self._do_lines(job)
        return job

    def look_at(self, id: str) -> Job:
        """The job, which is done in this moment if it has been looked at often enough. Raises KeyError."""
        job = self.jobs[id]
        job.looks += 1
        if job.state == RUNNING and job.looks > self.polls:
            self.finish(job)
        return job

    def finish(self, job: Job) -> None:
        """Let a job come to its end."""
        if not job.results:
            self._do_lines(job)
        job.state = job.ends

    def _do_lines(self, job: Job) -> None:
        """Do a job's lines, out of order."""
        lines = [json.loads(line) for line in self.files[job.input_file].splitlines()]
        random.Random(job.id).shuffle(lines)
        done = lines[: round(len(lines) * self.share)]
        made: dict[bool, list[bytes]] = {False: [], True: []}
        before = Counter(self._meter)
        for line in done:
            written, is_error = self._written(*self._do(line))
            made[is_error].append(json.dumps(written).encode() + b"\n")
        job.paid = self._meter - before
        for line in lines[len(done) :]:
            if (left := self.not_begun(line[self._id_key])) is not None:
                made[True].append(json.dumps(left).encode() + b"\n")
        for is_error, found in made.items():
            if found or not is_error:
                content = b"".join(self.tampered(found))
                job.results.append(self.keep(content, f"{job.id}_{'errors' if is_error else 'output'}.jsonl"))
        job.ends = self.ends

    def not_begun(self, custom_id: str) -> dict[str, Any] | None:
        """What a file of errors says of a line that was not begun; None: nothing is said."""
        return None

    def cancel(self, id: str) -> Job:
        """End a job with what is done of it."""
        job = self.jobs[id]
        if job.state == RUNNING:
            self.share, self.ends, before = 0.0, CANCELLED, (self.share, self.ends)
            self.finish(job)
            self.share, self.ends = before
        return job
