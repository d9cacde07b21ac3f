"""Credentials saved as blocks of prefect-aws, prefect-gcp and prefect-azure are taken by their names.

The blocks here have the types, slugs and fields of those packages; what is saved is the same document.
"""

from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import SecretStr

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import SpecError, StoreError
from sightflow.schemas.spec import StoreSettings
from sightflow.tasks.open import open_store
from tests.clouds import Cloud
from tests.loopback.stores.azurite import KEY, Azurite

pytestmark = pytest.mark.usefixtures("prefect_server")


class AwsCredentials(Block):
    _block_type_name = "AWS Credentials"
    _block_type_slug = "aws-credentials"
    aws_access_key_id: str | None = None
    aws_secret_access_key: SecretStr | None = None
    region_name: str | None = None
    aws_client_parameters: dict[str, Any] = {}
    assume_role_arn: str | None = None
    assume_role_kwargs: dict[str, Any] | None = None


class MinIOCredentials(Block):
    _block_type_name = "MinIO Credentials"
    _block_type_slug = "minio-credentials"
    minio_root_user: str
    minio_root_password: SecretStr
    aws_client_parameters: dict[str, Any] = {}


class GcpCredentials(Block):
    _block_type_name = "GCP Credentials"
    _block_type_slug = "gcp-credentials"
    service_account_info: SecretDict | None = None
    project: str | None = None


class AzureBlobStorageCredentials(Block):
    _block_type_name = "Azure Blob Storage Credentials"
    _block_type_slug = "azure-blob-storage-credentials"
    account_url: str | None = None
    connection_string: SecretStr | None = None


def opened(*names: str, **settings: Any) -> ObjectStore:
    return open_store(StoreSettings(credentials=names, **settings))


def test_each_type_opens_its_store(bucket: Any, azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    secret = SecretStr("a-secret-key-of-a-block")
    AwsCredentials(
        aws_access_key_id="of-the-block", aws_secret_access_key=secret, region_name="eu-west-1",
        aws_client_parameters={"endpoint_url": bucket.endpoint}, assume_role_arn="arn:aws:iam::1:role/r",
        assume_role_kwargs={"ExternalId": "x"},
    ).save("clouds-aws", overwrite=True)  # fmt: skip
    minio = MinIOCredentials(
        minio_root_user="of-the-block",
        minio_root_password=secret,
        aws_client_parameters={"endpoint_url": bucket.endpoint},
    )
    minio.save("clouds-minio", overwrite=True)
    GcpCredentials(service_account_info=SecretDict({"type": "service_account"}), project="payer").save(
        "clouds-google", overwrite=True
    )
    AzureBlobStorageCredentials(connection_string=SecretStr(azurite.connection_string)).save(
        "clouds-azure", overwrite=True
    )
    aws = opened("aws-credentials/clouds-aws")
    assert (aws.region, aws.role_arn, aws.role_external_id) == ("eu-west-1", "arn:aws:iam::1:role/r", "x")
    uri = bucket.put("a.png", b"x")
    assert opened("minio-credentials/clouds-minio").inventory([uri]).height == 1
    both = opened("gcp-credentials/clouds-google", "azure-blob-storage-credentials/clouds-azure", anonymous=False)
    assert both.google_credentials_json is not None and both.google_project == "payer"
    assert both.azure_connection_string is not None and KEY in both.azure_connection_string.get_secret_value()
    # What the spec says itself stands.
    assert opened("aws-credentials/clouds-aws", region="us-west-2").region == "us-west-2"
    assert "a-secret-key-of-a-block" not in repr(aws)


@pytest.mark.parametrize("cloud", ["azure"], indirect=True)
def test_a_container_is_listed_with_saved_credentials(
    cloud: Cloud, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    AzureBlobStorageCredentials(connection_string=SecretStr(azurite.connection_string)).save("listed", overwrite=True)
    store = opened("azure-blob-storage-credentials/listed")
    store.write(cloud.uri("a.png"), b"x")
    assert store.inventory([cloud.uri("")]).height == 1


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(StoreError, match="Prefect has no block aws-credentials/not-here"):
        opened("aws-credentials/not-here")
    for name in ("not-here", "snowflake-credentials/x", "aws-credentials/"):
        with pytest.raises(SpecError, match="names no saved credentials; allowed: aws-credentials/NAME"):
            opened(name)
    MinIOCredentials(minio_root_user="one", minio_root_password=SecretStr("two")).save("clouds-two", overwrite=True)
    with pytest.raises(SpecError, match="name one block for each cloud"):
        opened("minio-credentials/clouds-two", "minio-credentials/clouds-two")
