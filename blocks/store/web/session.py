"""Requests to the web: no credentials, few redirects, and none to private addresses unless that is allowed."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from fsspec.asyn import get_loop

from sightflow.blocks.store.buckets.client import BucketSettings
from sightflow.schemas.redaction import holds_user

MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class WebSettings(BucketSettings, Protocol):
    """What the web needs of the settings of an `ObjectStore`."""

    private_addresses: bool


class Forbidden(Exception):
    """A request that is not sent: where it leads is private, or not encrypted, or nowhere."""


class RefusedByServer(Exception):
    """An answer that is not what was asked for. `moved`: another host has given it, to which the first redirected.
    `code`: the word of a hub for it.
    """

    def __init__(self, status: int, moved: bool = False, code: str = "") -> None:
        where = ", from where its address redirects to" if moved else ""
        self.code = code if code.isascii() and code.isalnum() and len(code) < 40 else ""
        super().__init__(f"the answer is {status}{f' ({self.code})' if self.code else ''}{where}")
        self.status, self.moved = status, moved


class WebSession:
    """Requests on the event loop of fsspec, one try each.

    Names are looked up here and connections made to nothing but what was found, so that no name leads to a private
    address by being looked up twice. Behind a proxy (`HTTPS_PROXY`, `NO_PROXY`) it is the proxy that looks them up.
    """

    def __init__(self, settings: WebSettings, private_addresses: bool = False) -> None:
        self._settings = settings
        self._private_addresses = private_addresses or settings.private_addresses
        self._sessions: dict[bool, Any] = {}

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        secret: Mapping[str, str] | None = None,
        json: Any = None,
        told: Callable[[Mapping[str, str]], None] = lambda headers: None,
    ) -> AsyncIterator[Any]:
        """The answer of 2xx, its body unread. `secret`: headers for the host of `url` alone. `told` is given the
        headers of every answer of that host, of redirects too. What is posted (`json`) is not posted again elsewhere.

        Raises RefusedByServer, Forbidden, and what aiohttp raises.
        """
        from yarl import URL

        home, at = _origin(url), url
        for _ in range(MOST_REDIRECTS + 1):
            self._check(at)
            session, proxy = self._opened(at)
            own = secret if _origin(at) == home else None
            # What a URL would be made of by others, e.g. of `%2F`, is another object's.
            asked = {"headers": {**(headers or {}), **(own or {})}, "proxy": proxy, "allow_redirects": False}
            async with session.request(method, URL(at, encoded=True), json=json, **asked) as answer:
                if _origin(at) == home:
                    told(answer.headers)
                if answer.status not in _REDIRECTS or "Location" not in answer.headers or json is not None:
                    if answer.status >= 300 or answer.headers.get("Content-Encoding", "identity") != "identity":
                        raise RefusedByServer(
                            answer.status, _origin(at) != home, answer.headers.get("X-Error-Code", "")
                        )
                    yield answer
                    return
                at = _target(at, answer.headers["Location"], urlsplit(url).scheme)
        raise Forbidden(f"it redirects more than {MOST_REDIRECTS} times")

    def _check(self, url: str) -> None:
        host = urlsplit(url).hostname or ""
        if not self._private_addresses and _is_address(host) and not is_public(host):
            raise _private(host)

    def _opened(self, url: str) -> tuple[Any, str | None]:
        """A session for an address, and the proxy that it is asked through, if any."""
        import aiohttp

        host = urlsplit(url).hostname or ""
        proxy = None if proxy_bypass(host) else getproxies().get(urlsplit(url).scheme) or getproxies().get("all")
        guarded = proxy is None and not self._private_addresses
        if guarded not in self._sessions:
            resolver = _public_resolver() if guarded else None
            self._sessions[guarded] = session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._settings.concurrency, resolver=resolver, ssl=ssl.create_default_context()
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._settings.timeout, sock_read=self._settings.timeout
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "sightflow", "Accept-Encoding": "identity"},
                skip_auto_headers=("Content-Type",),
            )
            weakref.finalize(self, _close, session)
        return self._sessions[guarded], proxy


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet, also where it is written within another one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        within = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _NAT64:
            within.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        if any(each is not None and not is_public(str(each)) for each in within):
            return False
    return found.is_global and not found.is_multicast


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _private(host: str) -> Forbidden:
    return Forbidden(
        f"{host} is, or leads to, a private address; set `store: {{private_addresses: true}}` if that is meant"
    )


def _public_resolver() -> Any:
    """What looks names up, and gives only the addresses of them that are public."""
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.resolver import ThreadedResolver

    class PublicResolver(AbstractResolver):
        def __init__(self) -> None:
            self._all = ThreadedResolver()

        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
            found = await self._all.resolve(host, port, family)
            if not (public := [each for each in found if is_public(each["host"])]):
                raise _private(host)
            return public

        async def close(self) -> None:
            await self._all.close()

    return PublicResolver()


def _origin(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return parts.hostname, parts.port


def _target(url: str, location: str, scheme: str) -> str:
    """Where an answer redirects to: to HTTPS, unless what was asked for first was not. Raises Forbidden."""
    try:
        target = urljoin(url, location.strip())
        parts = urlsplit(target)
        _ = parts.port
    except ValueError:
        raise Forbidden("it redirects to what is no address") from None
    if parts.scheme not in ("https", scheme) or not parts.hostname or holds_user(target) or not target.isascii():
        raise Forbidden("it redirects to what is no https:// address without a password")
    return target.partition("#")[0]


def _close(session: Any) -> None:
    loop = get_loop()
    if loop is not None and loop.is_running():
        asyncio.run_coroutine_threadsafe(session.close(), loop)
