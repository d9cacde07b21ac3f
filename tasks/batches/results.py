"""The results of a batch: downloaded, and each line given to the request that it carries the id of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sightflow.blocks.models.contract import BatchDelivery, Output
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import StoreRefusal, is_about_this_machine
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.run.batch import Batch, BatchedRequest, BatchOutcome
from sightflow.tasks.batches.result_lines import lines_of
from sightflow.tasks.retries import retried_task

if TYPE_CHECKING:
    from PIL import Image

_BYTES_A_REQUEST = 2**20
_BYTES_BESIDES = 64 * 2**20

Part = tuple[BatchedRequest, Output]


@retried_task(task_run_name="download-{batch.batch_id}")
def download(batch: Batch, delivery: BatchDelivery, folder: Path) -> list[Path]:
    """Fetch a batch's files of results into a folder; one that the vendor has no more is left out.

    Raises ModelError if the vendor does not give them, StoreRefusal if there is no room for them.
    """
    most = batch.requests * _BYTES_A_REQUEST + _BYTES_BESIDES
    fetched = []
    for number, file in enumerate(batch.result_files):
        path = folder / f"results-{number}.jsonl"
        try:
            if delivery.download(file, path, most):
                fetched.append(path)
        except OSError as error:
            if not is_about_this_machine(error):
                raise
            why = f"the results of a batch cannot be kept in {folder.parent}: {error.strerror}; make room there"
            raise StoreRefusal(why) from None
    return fetched


def answered(
    files: Sequence[Path],
    requests: Sequence[BatchedRequest],
    delivery: BatchDelivery,
    outcome: BatchOutcome,
    sent_at: datetime,
) -> Iterator[list[Part]]:
    """What came of each row's requests, as soon as all of them have come; in the order of the results.

    A result is known by its id alone. A stranger's, one that came before, and a line that cannot be read are counted in
    `outcome` and dropped; what never comes is `not_done`, and asked again by the next run.
    """
    waiting = {request.custom_id: request for request in requests}
    ids, parts = set(waiting), dict[tuple[str, str], dict[int, Part]]()
    for line in lines_of(files):
        found = delivery.result(line, sent_at) if line else None
        if found is None:
            outcome.unreadable += 1
            continue
        custom_id, output, _ = found
        request = waiting.get(custom_id)
        if request is None:
            outcome.doubled += custom_id in ids
            outcome.strangers += custom_id not in ids
            continue
        if output is None:
            continue
        del waiting[custom_id]
        row = parts.setdefault(request.key, {})
        row[request.part] = (request, output)
        if len(row) == request.parts:
            del parts[request.key]
            yield [row[part] for part in sorted(row)]
    outcome.not_done = len({request.key for request in waiting.values()})


class _Unseen:
    """Stands where pixels were: what reads a reply asks for their size alone."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def media_of(request: BatchedRequest) -> Media:
    """The media that a request was about, as a reply to it is read with: all but the pixels."""
    unseen = cast("Image.Image", _Unseen(request.seen_width, request.seen_height))
    size = (request.width, request.height)
    if request.media_kind == MediaKind.IMAGE:
        return DecodedImage(unseen, *size, request.sha256)
    return DecodedVideo(
        (unseen,) * len(request.frames),
        tuple(request.frames),
        tuple(request.seconds),
        *size,
        request.duration or 0.0,
        request.frame_rate or 0.0,
        request.sha256,
    )
