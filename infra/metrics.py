"""Where Prometheus reads the counters of a process."""

from __future__ import annotations

from sightflow.schemas.failure import SightflowError, SpecError


def host_and_port(address: str) -> tuple[str, int]:
    """`HOST:PORT` or `PORT`, on loopback unless another host is named. Raises SpecError."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) < 65536:
        raise SpecError(f"{address!r} is no address to listen at; write PORT or HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


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
