"""How storage is reached, keys included: the settings that a saved store has, flat."""

from __future__ import annotations

from pydantic import BaseModel, Field, SecretStr

from sightflow.schemas.spec import ServerAddress


class StoreFields(BaseModel):
    """The settings of `ObjectStore`; `docs/stores.md` says what each cloud falls back on."""

    endpoint_url: ServerAddress | None = Field(default=None, description="Of an S3-compatible store; empty: AWS.")
    region: str | None = Field(default=None, description="AWS region; empty: what the environment says.")
    access_key_id: SecretStr | None = Field(default=None, description="Empty: environment, profile or role.")
    secret_access_key: SecretStr | None = Field(default=None, description="Belongs to the access key id.")
    session_token: SecretStr | None = Field(default=None, description="Of temporary keys.")
    profile: str | None = Field(default=None, description="AWS profile; empty: what the environment says.")
    role_arn: str | None = Field(default=None, description="AWS role that is taken on, of this or another account.")
    role_external_id: str | None = Field(default=None, description="What the role's owner asks for beside it.")
    kms_key_id: str | None = Field(default=None, description="KMS key by which S3 encrypts what is written.")
    requester_pays: bool = Field(default=False, description="Accept to be charged for requests (S3, Google).")
    azure_account: str | None = Field(default=None, description="Azure storage account; empty: the environment's.")
    azure_endpoint_url: ServerAddress | None = Field(default=None, description="Of its blob service, if not the usual.")
    azure_connection_string: SecretStr | None = Field(default=None, description="Names account and key in one.")
    azure_account_key: SecretStr | None = Field(default=None, description="Of the account, as Base64.")
    azure_sas_token: SecretStr | None = Field(default=None, description="Shared access signature: sv=...&sig=...")
    azure_tenant_id: str | None = Field(default=None, description="Of a service principal.")
    azure_client_id: str | None = Field(default=None, description="Of a service principal or a managed identity.")
    azure_client_secret: SecretStr | None = Field(default=None, description="Of a service principal.")
    google_endpoint_url: ServerAddress | None = Field(default=None, description="Of Google's API, if not the usual.")
    google_credentials_file: str | None = Field(default=None, description="Of a service account or a login.")
    google_credentials_json: SecretStr | None = Field(default=None, description="Such a file's content.")
    google_project: str | None = Field(default=None, description="Who pays for `requester_pays` at Google.")
    anonymous: bool = Field(default=False, description="Send unsigned requests, for public buckets.")
    private_addresses: bool = Field(
        default=False, description="Let https:// lead to this machine and to private networks."
    )
    concurrency: int = Field(default=32, ge=1, le=512, description="Most requests in flight.")
    attempts: int = Field(default=5, ge=1, le=20, description="Tries of one request before it counts as failed.")
    timeout: float = Field(default=60.0, gt=0, description="Seconds without a byte until a try is given up.")
