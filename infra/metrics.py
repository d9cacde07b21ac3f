"""Where Prometheus reads the counters of a process."""

from __future__ import annotations

from sightflow.infra.loopback import host_and_port
from sightflow.schemas.failure import SightflowError


def serve_metrics(address: str | None) -> None:
    """Answer at `address`/metrics as long as this process lives. Raises SightflowError if it cannot listen there."""
    if address is None:
        return
    from prometheus_client import start_http_server

    host, port = host_and_port(address)
    try:
        start_http_server(port, host)
    except OSError as error:
        raise SightflowError(f"the metrics cannot listen at {host}:{port}: {error.strerror}") from None
