"""Which source an address speaks of."""

from __future__ import annotations

from sightflow.infra.service.notification_sources.azure_queue import AzureQueue, is_azure_queue
from sightflow.infra.service.notification_sources.message_source import MessageSource
from sightflow.infra.service.notification_sources.pubsub_subscription import SUBSCRIPTION, PubSubSubscription
from sightflow.infra.service.notification_sources.sqs_queue import SqsQueue


def queue_at(address: str) -> MessageSource:
    """The queue that a bucket notifies: the URL of one of SQS or of Azure's, or the name of a subscription of Pub/Sub.

    Raises SpecError if it is none of them, MissingExtra, and SightflowError if it cannot be read.
    """
    if SUBSCRIPTION.fullmatch(address):
        return PubSubSubscription(address)
    if is_azure_queue(address):
        return AzureQueue(address)
    return SqsQueue(address)
