"""From results to rows: what came of a batch, group by group, as answers that are checked and published as any."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from itertools import islice

import polars as pl

from sightflow.blocks.catalog.appender import key_frame
from sightflow.blocks.catalog.batch_log import BatchLog, BatchOvertaken
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.run_writer import RunWriter
from sightflow.blocks.models.contract import Generated, Output, Prompt
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, ModelError, SightflowError
from sightflow.schemas.run.batch import Batch, BatchedRequest, BatchOutcome
from sightflow.schemas.run.plan import ResolvedEnrichment, Shard, ShardItem
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.batches import BatchState
from sightflow.schemas.vision import Answer, Replies, VisionReply, VisionRequest
from sightflow.tasks.batches.bills import CollectedBills
from sightflow.tasks.batches.budget import holds_of, settle
from sightflow.tasks.batches.poll import Polled, delivery_of, model_of, resolved_of
from sightflow.tasks.batches.repair import is_unreadable, repaired
from sightflow.tasks.batches.results import Part, answered, download, media_of
from sightflow.tasks.media.windows import Window, join
from sightflow.tasks.publish import publish
from sightflow.tasks.runtime.loaded_models import LoadedModel
from sightflow.tasks.runtime.temporary_folder import TemporaryFolder
from sightflow.tasks.validate import Validated, fingerprint

_logger = logging.getLogger(__name__)
_GROUP = 1000  # rows that are checked and published at once
_Held = dict[tuple[str, str], tuple[str, datetime]]


class Collection:
    """What one run of `collect` does, batch by batch: counts, cost, and errors, which cost no other batch anything."""

    def __init__(self, catalog: Catalog, spec: EnrichmentSpec, run_id: str) -> None:
        self.catalog, self.spec, self.run_id = catalog, spec, run_id
        self.outcomes: list[BatchOutcome] = []
        self.errors: list[SightflowError] = []
        self.causes: Counter[Cause] = Counter()
        self.published = self.commits = 0
        self.cost_usd = 0.0
        self._log, self._holds = BatchLog(catalog), holds_of(spec)
        self._is_complete = False
        self._outcome: BatchOutcome
        self._batch: Batch
        self._is_ours = True
        self._shard: Shard
        self._price_share = 1.0
        self.bills = CollectedBills(catalog)
        self._writer: RunWriter | None = None

    @contextmanager
    def about(self, batch: Batch) -> Iterator[None]:
        """See to one batch within the block; what goes wrong with it is kept, and the next one is seen to."""
        self._outcome = BatchOutcome(
            batch_id=batch.batch_id,
            system=batch.system,
            vendor=batch.vendor,
            state=batch.state,
            requests=batch.requests,
        )
        self.outcomes.append(self._outcome)
        self._batch, self._is_ours = batch, True
        try:
            yield
        except BatchOvertaken as error:
            self._outcome.note = str(error)
        except Exception as error:
            self._let_go()
            if not isinstance(error, SightflowError):
                raise
            self._outcome.note = str(error)
            self.errors.append(error)

    def _let_go(self) -> None:
        """Leave results that could not all be published to the next collect, which begins anew with them."""
        if self._batch.state is BatchState.COLLECTING:
            with suppress(BatchOvertaken, SightflowError):
                self._advance(BatchState.SUBMITTED)

    def _advance(self, state: BatchState) -> None:
        self._batch = self._log.advance(self._batch, state)
        self._outcome.state = state

    def polled(self, polled: Polled) -> None:
        """How the batch stands."""
        self._batch, self._is_ours = polled.batch, polled.is_ours
        self._is_complete = polled.is_complete
        self._outcome.state, self._outcome.note = polled.batch.state, polled.note

    def results(self) -> Iterator[tuple[Shard, Replies]]:
        """What came of the batch, some rows at a time, as the answers of a shard."""
        batch = self._batch
        loaded, delivery = model_of(batch, self.spec), delivery_of(batch, self.spec)
        rates = loaded.model.rates
        self._price_share = (rates.batch if rates else None) or 1.0
        requests, enrichments = self._log.requests(batch)
        resolved = resolved_of(requests, enrichments, loaded)
        held = self._held(requests)
        with TemporaryFolder("results") as folder:
            files = download(batch, delivery, folder.path)
            if len(files) < len(batch.result_files):
                self._outcome.note = f"{batch.vendor} has lost the results, or removed them: they are asked again"
            untold_is_free = len(files) == len(batch.result_files) and not self._is_complete
            settle(batch, requests, files, delivery, self._holds, untold_is_free)
            rows = answered(files, requests, delivery, self._outcome, batch.recorded_at)
            wanted = (row for row in rows if self._is_wanted(row[0][0], batch, held))
            for index in range(len(requests)):
                group = list(islice(wanted, _GROUP))
                if not group:
                    return
                answers = self._answers(group, resolved, loaded)
                items = tuple(answer.item for answer in answers)
                kind = MediaKind(requests[0].media_kind)
                self._shard = Shard(index, batch.system, kind, items, tuple(resolved.values()), "batch")
                yield self._shard, Replies(answers, [])

    def _held(self, requests: Sequence[BatchedRequest]) -> _Held:
        """The catalog's rows of what a batch is about: by key, fingerprint and when it was inferred."""
        uris = pl.Series([request.uri for request in requests]).unique()
        names = {request.enrichment for request in requests}
        rows = self.catalog.scan("enrichments").filter(
            pl.col("uri").is_between(pl.lit(uris.min()), pl.lit(uris.max()))
            & pl.col("enrichment").is_in(names)
            & pl.col("uri").is_in(uris.to_list())
        )
        found = self.catalog.read(rows.select("uri", "enrichment", "fingerprint", "inferred_at"))
        self._replaced = key_frame(found.select("uri", "enrichment").rows())
        return {(uri, name): (own, at) for uri, name, own, at in found.iter_rows()}

    def _is_wanted(self, request: BatchedRequest, batch: Batch, held: _Held) -> bool:
        if there := held.get(request.key):
            if there[0] == fingerprint(request.recipe, request.object_version):
                self._outcome.known += 1
                return False
            if there[1] > batch.recorded_at:
                self._outcome.overtaken += 1
                return False
        return True

    # --- replies --------------------------------------------------------------------------------

    def _answers(
        self, group: Sequence[list[Part]], resolved: dict[str, ResolvedEnrichment], loaded: LoadedModel
    ) -> list[Answer]:
        """One answer a row, each of its replies read; what cannot be read is asked once more."""
        reading = _Reading(resolved, loaded)
        unreadable = [
            (request, output)
            for row in group
            for request, output in row
            if isinstance(output, Generated) and is_unreadable(output, reading.reply(request, output).failure)
        ]
        again, why_not = repaired(unreadable, resolved, loaded, self.spec, self.run_id)
        self._outcome.repaired += len(again)
        self._outcome.note = "; ".join(filter(None, (self._outcome.note, why_not)))
        return [
            reading.answer([(request, again.get(request.custom_id, output)) for request, output in row])
            for row in group
        ]

    # --- publishing -----------------------------------------------------------------------------

    def publish(self, validated: Validated) -> None:
        """Commit some rows and failures."""
        if self._writer is None:
            self._writer = RunWriter(self.catalog, self.catalog.version())
        self.commits += publish(self._writer, validated.rows, validated.failed, self._replaced)
        rows, failed = validated.rows, validated.failed
        self.published += rows.height
        self.cost_usd += sum(rows["cost_usd"]) + sum(failed["cost_usd"])
        self.causes.update(Cause(cause) for cause in failed["cause"])
        self.bills.add(self._batch, self._shard, validated, self._price_share)
        self._outcome.published += rows.height
        self._outcome.quarantined += failed.height

    def close(self) -> None:
        """Say that the batch's results are published, and take its files away from the vendor."""
        if self._batch.state is BatchState.COLLECTING:
            self._advance(BatchState.COLLECTED)
        if self._batch.state is not BatchState.COLLECTED or not self._is_ours:
            return
        batch = self._batch
        try:
            delivery = delivery_of(batch, self.spec)
            # Only what the vendor itself says is of this batch: a catalog is data, and an id in it may be of any file.
            remote = delivery.look_up(batch.vendor_batch or "")
            if remote and remote.name in ("", batch.batch_id):
                delivery.remove(remote.result_files, remote.id, batch.batch_id)
            else:
                delivery.remove((), None, batch.batch_id)
        except ModelError as error:
            self._outcome.note = f"its files stay at {batch.vendor} until the next collect: {error}"
            return
        self._advance(BatchState.CLOSED)


class _Reading:
    """Reads replies as the model's own loop does, with what was kept of the media."""

    def __init__(self, resolved: dict[str, ResolvedEnrichment], loaded: LoadedModel) -> None:
        self._resolved, self._loaded = resolved, loaded
        self._prompts: dict[str, Prompt] = {}

    def reply(self, request: BatchedRequest, output: Output) -> VisionReply:
        """The reply to one request."""
        resolved, model = self._resolved[request.enrichment], self._loaded.model
        if request.enrichment not in self._prompts:
            (prompt,) = model.effective_prompts(resolved.enrichment, resolved.media_kind)
            self._prompts[request.enrichment] = prompt
        about = VisionRequest(request.uri, resolved.enrichment, media_of(request))
        reply = model.reply(about, [(self._prompts[request.enrichment], output)])
        return replace(reply, model_revision=self._loaded.revision)

    def answer(self, row: Sequence[Part]) -> Answer:
        """The answer of one row, that of a video from all its windows."""
        first, resolved = row[0][0], self._resolved[row[0][0].enrichment]
        windows = [
            Window(tuple(request.frames), request.window_start or 0.0, request.window_end or 0.0, request.overview)
            for request, _ in row
        ]
        reply = join(resolved.enrichment, windows, [self.reply(*part) for part in row])
        replaced = (first.enrichment,) if first.replaced else ()
        item = ShardItem(first.uri, first.object_version, first.bytes, (first.enrichment,), replaced)
        return Answer(item, resolved, first.facts, reply)
