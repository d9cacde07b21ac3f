"""This machine is never asked through a proxy."""

import httpx
import pytest

from sightflow.infra.loopback import bypass_proxies, is_loopback


def test_this_machine_is_added_to_both_lists_of_exceptions() -> None:
    environment = {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "intranet, ::1", "no_proxy": "other"}
    bypass_proxies(environment)
    assert environment["NO_PROXY"] == environment["no_proxy"] == "other,intranet,::1,127.0.0.1,localhost"
    bypass_proxies(environment)
    assert environment["no_proxy"] == "other,intranet,::1,127.0.0.1,localhost"


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_any_proxy_counts(name: str) -> None:
    environment = {name: "http://proxy:3128"}
    bypass_proxies(environment)
    assert environment["no_proxy"] == "127.0.0.1,localhost,::1"


def test_where_no_proxy_is_asked_at_all_or_none_is_named_nothing_changes() -> None:
    environment = {"http_proxy": "http://proxy:3128", "no_proxy": "*"}
    bypass_proxies(environment)
    assert environment["no_proxy"] == "*"
    bypass_proxies(bare := {"HOME": "/"})
    assert bare == {"HOME": "/"}


def test_httpx_reads_the_list_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    bypass_proxies()
    with httpx.Client() as client:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            assert client._transport_for_url(httpx.URL(f"http://{host}:4200/")) is client._transport
        assert client._transport_for_url(httpx.URL("http://example.org/")) is not client._transport


_HOSTS = dict.fromkeys(("127.0.0.1", "127.8.8.8", "::1", "localhost"), True)
_HOSTS |= dict.fromkeys(("0.0.0.0", "::", "192.168.1.2", "no such name.invalid"), False)


@pytest.mark.parametrize(("host", "expected"), _HOSTS.items())
def test_what_listens_for_this_machine_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
