"""Whether commits can be made in a bucket: a write of their kind, tried."""

from __future__ import annotations

import logging

from sightflow.blocks.store.buckets.client import BucketClient, ErrorKind
from sightflow.schemas.failure import StoreRefusal
from sightflow.schemas.object_uri import ObjectUri

logger = logging.getLogger(__name__)


async def check_conditional_writes(client: BucketClient, probe: ObjectUri) -> None:
    """Write an object that must not be there, twice: a store that takes the second would let two runs overwrite
    each other's commits. It is then removed, in a bucket that keeps versions for good.
    """
    written = ""
    second_was_taken = False
    condition = client.write_condition
    try:
        for second_was_taken in (False, True):
            try:
                written = await client.retry(lambda: client.put(probe, b"", only_new=True))
            except Exception as error:  # the libraries have no common class of errors, and some hold keys
                second_was_taken = False
                kind = client.kind_of(error)
                if kind is ErrorKind.UNSUPPORTED:
                    raise StoreRefusal(
                        f"the store of {probe} has no conditional writes ({condition}), which commits need"
                    ) from None
                # Also at the first: it was taken, and sent again because the answer was lost.
                if kind is not ErrorKind.REPLACED:
                    raise client.store_error(error, probe, "write") from None
    finally:
        try:
            await client.retry(lambda: client.delete(probe, written))
        except Exception as error:  # nobody reads it, and a store that lets nobody delete may be meant so
            logger.warning("%s was not removed: %s", probe, client.redacted(error))
    if second_was_taken:
        raise StoreRefusal(
            f"the store of {probe} ignores {condition}, so that two runs could overwrite each other's commits; "
            "use a store with conditional writes (AWS S3, MinIO, Cloudflare R2, Ceph since 19, ...)"
        )
