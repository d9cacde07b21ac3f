"""Addresses to listen at and to ask: which are this machine, and that none of these is asked through a proxy."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import MutableMapping
from typing import Final

from sightflow.schemas.failure import SpecError

LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "::1")
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")


def bypass_proxies(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add this machine to `NO_PROXY` and `no_proxy`, where a proxy is named.

    A proxy answers a request for 127.0.0.1 by asking itself, or not at all. Both spellings hold both lists afterwards:
    libraries differ in which of them they read, and none reads both.

    Where no proxy is named nothing changes: a list of exceptions alone would have urllib on macOS pass over the proxy
    of the system's settings.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return
    listed = [host.strip() for name in ("no_proxy", "NO_PROXY") for host in environment.get(name, "").split(",")]
    hosts = dict.fromkeys(host for host in (*listed, *LOOPBACK_HOSTS) if host)
    exceptions = "*" if "*" in hosts else ",".join(hosts)
    environment.update(NO_PROXY=exceptions, no_proxy=exceptions)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to what listens at `host`, an address or a name that is looked up now."""
    try:
        addresses = {host} if _is_address(host) else {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(addresses) and all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in addresses)


def host_and_port(address: str) -> tuple[str, int]:
    """`HOST:PORT` or `PORT`, on loopback unless another host is named. Raises SpecError."""
    if "@" in address:  # what stands before it may be a password
        raise SpecError("an address to listen at holds no user name and no password; write PORT or HOST:PORT")
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) < 65536:
        raise SpecError(f"{address!r} is no address to listen at; write PORT or HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
