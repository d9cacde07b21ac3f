"""One object of Azure has one URI, however its address is spelled; a key in an address is refused and never shown."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sightflow.schemas.failure import SpecError
from sightflow.schemas.object_uri import AzureAccount, InvalidUriError, split_account
from sightflow.schemas.redaction import redact
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec

ADDRESS = "abfss://media@shop.dfs.core.windows.net"
ASKED = [{"capability": "image captioning", "name": "caption"}]


def spec(source: Any, catalog: str = "az://media/catalog", **more: Any) -> EnrichmentSpec:
    return EnrichmentSpec.model_validate({"source": source, "catalog": catalog, "enrichments": ASKED, **more})


@pytest.mark.parametrize(("text", "uri", "account"), [
    (f"{ADDRESS}/a b/%41?#.png", "az://media/a b/%41?#.png", AzureAccount("shop")),
    ("abfs://media@shop.dfs.core.windows.net/", "az://media/", AzureAccount("shop")),
    ("abfss://$web@shop.blob.core.windows.net/a", "az://$web/a", AzureAccount("shop")),
    ("abfss://media@shop.dfs.core.chinacloudapi.cn/a", "az://media/a", AzureAccount("shop", "core.chinacloudapi.cn")),
    ("az://media/a", "az://media/a", None),
    ("s3://media/a", "s3://media/a", None),
])  # fmt: skip
def test_an_address_with_an_account_is_the_uri_and_the_account(text: str, uri: str, account: Any) -> None:
    assert split_account(text) == (uri, account)
    assert split_account(uri) == (uri, None)


@pytest.mark.parametrize("text", ["abfss://media/a", "abfss://media@shop/a", "abfss://@shop.dfs.core.windows.net/a"])
def test_an_address_without_container_or_account_is_refused(text: str) -> None:
    with pytest.raises(InvalidUriError, match="names no container and account; write abfss://container@account"):
        split_account(text)


def test_a_spec_has_one_form_and_one_account() -> None:
    found = spec([f"{ADDRESS}/**/*.png", "az://more/"], f"{ADDRESS}/catalog", listing=f"{ADDRESS}/list.txt")
    assert (found.source, found.catalog) == (("az://media/**/*.png", "az://more/"), "az://media/catalog")
    assert found.listing == ("az://media/list.txt",) and found.store.azure_account == "shop"
    assert EnrichmentSpec.model_validate(found.model_dump()) == found
    assert spec(f"{ADDRESS}/", store={"azure_account": "shop"}).store.azure_endpoint_url is None
    china = spec(f"{ADDRESS.replace('windows.net', 'chinacloudapi.cn')}/")
    assert china.store.azure_endpoint_url == "https://shop.blob.core.chinacloudapi.cn"
    for source, more in (
        ([f"{ADDRESS}/", ADDRESS.replace("shop", "other") + "/"], {}),
        (f"{ADDRESS}/", {"store": {"azure_account": "other"}}),
    ):
        with pytest.raises(ValueError, match=r"addresses of several Azure accounts \(other, shop\)"):
            spec(source, **more)


def test_a_file_may_name_accounts_and_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    document = {"source": f"{ADDRESS}/**/*.png", "catalog": f"{ADDRESS}/catalog", "enrichments": ASKED}
    file.write_text(yaml.safe_dump(document))
    assert read_spec(file).store.azure_account == "shop"
    for source in (
        "az://media/a.png?sv=2021&sp=r&sig=canary%2Bsignature%3D",
        f"{ADDRESS}/a.png?sig=canary-signature",
        "abfss://me:canary-password@shop.dfs.core.windows.net/a",
    ):
        file.write_text(yaml.safe_dump({**document, "source": source}))
        with pytest.raises(SpecError, match="keys belong into the environment or a saved block") as raised:
            read_spec(file)
        assert "canary" not in str(raised.value)
    file.write_text(yaml.safe_dump({**document, "store": {"azure_account_key": "canary"}}))
    with pytest.raises(SpecError, match=r"is not a known key.*keys belong into the environment"):
        read_spec(file)


def test_an_address_is_shown_and_what_is_secret_in_one_is_not() -> None:
    assert redact(f"{ADDRESS}/a.png") == f"{ADDRESS}/a.png"
    for text in (
        "https://shop.blob.core.windows.net/media/a?sv=2021&sig=canary%2B",
        "AccountName=shop;AccountKey=canary/of/the+key==;",
        "SharedAccessSignature=canary",
        "abfss://user:canary@shop.dfs.core.windows.net/a",
    ):
        assert "canary" not in redact(text)
