"""The keys of S3: those of the settings, else what the AWS command line would find; and a role that is taken on."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from pydantic import SecretStr

from sightflow.blocks.store.buckets.client import BucketSettings
from sightflow.schemas.redaction import remember

_NAMES = ("access_key_id", "secret_access_key", "session_token")


class S3Settings(BucketSettings, Protocol):
    """What S3 needs of the settings of an `ObjectStore`, where they are described."""

    endpoint_url: str | None
    region: str | None
    access_key_id: SecretStr | None
    secret_access_key: SecretStr | None
    session_token: SecretStr | None
    profile: str | None
    role_arn: str | None
    role_external_id: str | None
    kms_key_id: str | None
    requester_pays: bool
    anonymous: bool


class S3Credentials:
    """The keys of one store, renewed before they end. They are botocore's, so that delta-rs can be given them too."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._role: Any = None

    def session(self) -> Any:
        """A session of botocore, of the profile that is meant."""
        from botocore.session import Session

        return Session(profile=self._settings.profile)

    def for_delta(self) -> dict[str, str]:
        """The keys as they are now, by name. Raises what botocore raises for a role that is refused."""
        found = self._found()
        if found is None:
            return {}
        frozen = found.get_frozen_credentials()
        keys = zip(_NAMES, (frozen.access_key, frozen.secret_key, frozen.token), strict=True)
        return {name: remember(value) for name, value in keys if value}

    def for_requests(self, session: Any) -> dict[str, str]:
        """The keys that s3fs is given, unless it finds them itself; a role becomes the session's own credentials."""
        if self._settings.role_arn:
            session._credentials = self._role_for_requests()
            return {}
        names = zip(("key", "secret", "token"), _own(self._settings), strict=True)
        return {name: value for name, value in names if value}

    def _found(self) -> Any:
        """Credentials of botocore, or None where there are none or none are wanted."""
        from botocore.credentials import Credentials

        if self._settings.role_arn:
            return self._taken_role()
        key, secret, token = _own(self._settings)
        if key and secret:
            return Credentials(key, secret, token)
        return None if self._settings.anonymous else self.session().get_credentials()

    def _taken_role(self) -> Any:
        from botocore.credentials import AssumeRoleCredentialFetcher, Credentials, DeferredRefreshableCredentials
        from botocore.exceptions import NoCredentialsError

        if self._role is None:
            settings, session = self._settings, self.session()
            key, secret, token = _own(settings)
            source = Credentials(key, secret, token) if key and secret else session.get_credentials()
            if source is None:
                raise NoCredentialsError
            asked = {"RoleSessionName": "sightflow"}
            if settings.role_external_id:
                asked["ExternalId"] = settings.role_external_id
            region = settings.region or session.get_config_variable("region") or "us-east-1"

            def client(service: str, **keys: Any) -> Any:
                return session.create_client(service, region_name=region, **keys)

            fetcher = AssumeRoleCredentialFetcher(client, source, settings.role_arn, extra_args=asked)
            self._role = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
        return self._role

    def _role_for_requests(self) -> Any:
        from aiobotocore.credentials import AioDeferredRefreshableCredentials

        async def fetch() -> dict[str, Any]:
            role = await asyncio.to_thread(self._taken_role)
            frozen = await asyncio.to_thread(role.get_frozen_credentials)
            return {
                "access_key": frozen.access_key,
                "secret_key": frozen.secret_key,
                "token": frozen.token,
                "expiry_time": role._expiry_time.isoformat(),
            }

        return AioDeferredRefreshableCredentials(fetch, "assume-role")


def _own(settings: S3Settings) -> tuple[str | None, ...]:
    """The keys that the settings hold themselves."""
    held: list[SecretStr | None] = [getattr(settings, name) for name in _NAMES]
    return tuple(remember(secret.get_secret_value()) if secret else None for secret in held)
