"""The spec: the one file a user writes. Source, catalog, enrichments, models, policy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sightflow.schemas.enrichment import Enrichment, Words
from sightflow.schemas.object_uri import Scheme, split_scheme
from sightflow.schemas.policy import Policy, Section
from sightflow.schemas.redaction import Place, holds_user, names_a_secret, secrets_in
from sightflow.schemas.source_pattern import (
    canonical_place,
    canonical_source,
    check_pattern,
    missing_part,
    with_one_account,
)
from sightflow.schemas.spec_yaml import SpecPlaces

_GLOB_CHARACTERS = re.compile(r"[*?\[]")
_HALF_A_SCHEME = re.compile(r"(?:s3a?|gs|az|abfss?|https?|file(?!:/)):(?!//)", re.IGNORECASE)
"""`s3:/bucket/key` would be a local folder, and so would `file:folder`."""


WHERE_KEYS_BELONG = "keys belong into the environment or a saved block"


def _without_keys(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is no address of a server; it begins with http:// or https://")
    return _without_user(address)


def _without_user(address: str) -> str:
    if holds_user(address):  # addresses are stored and shown
        raise ValueError(f"holds a user name or a password; {WHERE_KEYS_BELONG}")
    return address


ServerAddress = Annotated[str, AfterValidator(_without_keys)]
"""`http://` or `https://`, a host, and no key."""


class StoreSettings(Section):
    """How the object store is reached. Keys come from each cloud's usual environment, profile, role or login, or from
    Prefect blocks (`block`, `credentials`), never from this file.
    """

    block: str | None = Field(default=None, description="name of a saved ObjectStore block")
    credentials: Words = Field(
        default=(), description="saved blocks of prefect-aws, prefect-gcp and prefect-azure, as type/name"
    )
    endpoint_url: ServerAddress | None = Field(default=None, description="S3-compatible endpoint")
    region: str | None = None
    role_arn: str | None = Field(default=None, description="AWS role that is taken on, of this or another account")
    role_external_id: str | None = Field(default=None, description="what the role's owner asks for beside it")
    kms_key_id: str | None = Field(default=None, description="KMS key by which S3 encrypts what is written")
    requester_pays: bool = Field(default=False, description="accept to be charged for requests (S3, Google)")
    azure_account: str | None = Field(default=None, description="Azure storage account of az:// addresses")
    azure_endpoint_url: ServerAddress | None = Field(default=None, description="of its blob service, if not the usual")
    google_endpoint_url: ServerAddress | None = Field(default=None, description="of Google's API, if not the usual")
    google_project: str | None = Field(default=None, description="who pays for `requester_pays` at Google")
    anonymous: bool = False
    private_addresses: bool = Field(default=False, description="https:// may lead to this machine and private networks")


_LOCAL_CLUSTER = "sightflow.tasks.runtime.local_cluster.local_workers"
_CLUSTERS = re.compile(
    r"(?:dask\.)?distributed\.LocalCluster|"
    r"(?:coiled|dask_(?:cloudprovider|cuda|databricks|gateway|jobqueue|kubernetes|mpi|yarn))(?:\.\w+)*\.\w*Cluster"
)
"""Classes that start a Dask cluster. Those that take code as text (SSHCluster, SpecCluster) are not among them."""
_CODE = re.compile(
    r"(?:.*\.)?(?:preload.*|plugins?|.*_class|job_cls|config|pickle.*)|.*_prologue|.*_command|python|env_extra"
)
"""Settings, by the last of their dotted name, with which Dask, a worker or a queueing system runs what they hold."""


class RunnerSettings(Section):
    """Who works on the shards of a run: `threads` of its own process, or the workers of a Dask cluster.

    One that runs already (`address`), or one that is made for the run: by default processes of this machine, one for
    each GPU (`settings: {workers: 4}` for another number).
    """

    kind: Literal["threads", "dask"] = "threads"
    address: Annotated[str, AfterValidator(_without_user)] | None = Field(
        default=None, pattern=r"^(tcp|tls|ws|wss)://", description="of a scheduler"
    )
    cluster: str = Field(
        default=_LOCAL_CLUSTER,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$",
        description="a cluster class by name, e.g. dask_kubernetes.operator.KubeCluster",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="the keywords of that class")

    wait_seconds: float = Field(default=300.0, gt=0, description="how long a first worker is waited for")

    @field_validator("cluster")
    @classmethod
    def _starts_a_cluster(cls, cluster: str) -> str:
        """A spec may come out of a deployment's parameters, and names no code but classes of Dask's packages."""
        if cluster != _LOCAL_CLUSTER and not _CLUSTERS.fullmatch(cluster):
            raise ValueError(
                f"{cluster} is not known to start a Dask cluster; allowed: distributed.LocalCluster and the cluster "
                "classes of dask_kubernetes, dask_jobqueue, dask_cuda, dask_cloudprovider, dask_gateway, dask_yarn and "
                "coiled; with any other, start it yourself and give its `address`"
            )
        return cluster

    @field_validator("settings")
    @classmethod
    def _holds_no_code_and_no_key(cls, settings: dict[str, Any]) -> dict[str, Any]:
        names = set(_names_in(settings))
        if code := sorted(filter(_CODE.fullmatch, names)):
            raise ValueError(f"{', '.join(code)} would run code that a spec names; start such a cluster yourself")
        if keys := sorted(filter(names_a_secret, names)):
            raise ValueError(f"{', '.join(keys)}: a spec holds no keys; they belong into the environment")
        return settings


def _names_in(value: Any) -> Iterator[str]:
    """The names of settings, those within settings included: `scheduler_kwargs: {preload: ...}` is handed on."""
    if isinstance(value, dict):
        yield from map(str, value)
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _names_in(member)


def _kind_alone(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


URI_FILES = (".parquet", ".csv", ".jsonl", ".txt")


def uri_list_form(address: str) -> str | None:
    """Which of `URI_FILES` an entry of `listing` is, by its name; None for an S3 inventory."""
    path = address.partition("?")[0] if split_scheme(address)[0] is Scheme.HTTPS else address
    return next((form for form in URI_FILES if path.lower().endswith(form)), None)


def is_uri_list(address: str) -> bool:
    """Whether an entry of `listing` is a file of URIs, and not an S3 inventory."""
    return uri_list_form(address) is not None


class ModelEntry(NamedTuple):
    """What a spec says of one model: the name it goes by there, and its settings; `system` or `class` among these say
    what it is, where the name is the user's own. `may_name_code`: whether the class that `class` names may be imported.
    """

    name: str
    settings: dict[str, Any]
    may_name_code: bool = False


class EnrichmentSpec(Section):
    """Everything a run needs to know. `spec_reader.read_spec` reads one from a file."""

    source: Words = Field(min_length=1)
    catalog: str
    enrichments: tuple[Enrichment, ...] = Field(min_length=1)
    listing: Words = Field(
        default=(), description="S3 inventories, or files of URIs, that say what there is in the place of the store"
    )
    store: StoreSettings = StoreSettings()
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    policy: Policy = Policy()
    runner: Annotated[RunnerSettings, BeforeValidator(_kind_alone)] = RunnerSettings()

    _places: SpecPlaces = PrivateAttr(default_factory=SpecPlaces)

    @model_validator(mode="before")
    @classmethod
    def _holds_no_keys(cls, document: Any) -> Any:
        if found := [SpecPlaces().explain(place, why) for place, why in secrets_in(document)]:
            raise ValueError(f"{'; '.join(found)}; {WHERE_KEYS_BELONG}")
        return with_one_account(document)

    def read_at(self, places: SpecPlaces) -> EnrichmentSpec:
        """The same spec, which knows where in its file each of its values stands."""
        copied = self.model_copy()
        copied._places = replace(places, is_a_file=True)
        return copied

    def model_entry(self, name: str) -> ModelEntry:
        """What is said of a model; an entry that it names with `boxes_from: NAME` stands there in full.

        Classes of one's own are imported only for a spec that was read from a file its user gave: what a deployment or
        a catalog has stored names no code.
        """
        settings = dict(self.models.get(name) or {})
        other = settings.get("boxes_from")
        if isinstance(other, str):
            settings["boxes_from"] = {"system": other} | (self.models.get(other) or {})
        return ModelEntry(name, settings, self._places.is_a_file)

    def explain(self, place: Place, problem: str) -> str:
        """A problem at a place, e.g. `("models", "gpt-4o")`, as `file:line: place: what is wrong`."""
        return self._places.explain(place, problem)

    def quoting_advice(self, place: Place) -> str | None:
        """See `SpecPlaces.quoting_advice`."""
        return self._places.quoting_advice(place)

    @field_validator("source", "catalog", "listing", mode="before")
    @classmethod
    def _paths_as_text(cls, given: Any) -> Any:
        """What a flow of one's own may give: `pathlib.Path`."""
        many = isinstance(given, list | tuple)
        texts = [os.fspath(each) if isinstance(each, os.PathLike) else each for each in (given if many else [given])]
        return texts if many else texts[0]

    @field_validator("source")
    @classmethod
    def _source_uris(cls, sources: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(_source_uri(uri, _base(info)) for uri in sources)

    @field_validator("listing")
    @classmethod
    def _listing_uris(cls, addresses: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for address in addresses:
            _check_uri(address)
            if not is_uri_list(address) and split_scheme(address)[0] is not Scheme.S3:
                raise ValueError(f"{address!r} is neither an S3 inventory (s3://) nor one of {', '.join(URI_FILES)}")
        return tuple(canonical_place(address, _base(info)) for address in addresses)

    @property
    def delivers_by_batch(self) -> bool:
        """Whether any enrichment is wished to be asked by a batch API."""
        return any((each.delivery or self.policy.delivery) == "batch" for each in self.enrichments)

    @property
    def partial(self) -> bool:
        """Whether only some of the source's objects are named: then none counts as gone for not being named."""
        return any(map(is_uri_list, self.listing))

    @field_validator("catalog")
    @classmethod
    def _catalog_uri(cls, uri: str, info: ValidationInfo) -> str:
        _check_uri(uri)
        place = canonical_place(uri, _base(info))
        _check_catalog_folder(uri, place)
        return place.rstrip("/")

    @field_validator("enrichments")
    @classmethod
    def _names_are_unique(cls, enrichments: tuple[Enrichment, ...]) -> tuple[Enrichment, ...]:
        names = [e.name for e in enrichments]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two enrichments are called {', '.join(twice)}; give each a `name` of its own")
        return enrichments


def _base(info: ValidationInfo) -> str | None:
    """The folder that relative paths are taken from, if it is not the working directory: that of the spec's file."""
    return (info.context or {}).get("folder")


def _source_uri(uri: str, folder: str | None) -> str:
    _check_uri(uri)
    pattern = canonical_source(uri, folder)
    check_pattern(pattern)
    return pattern


def _check_uri(uri: str) -> None:
    """Raise ValueError that says what is wrong with a URI or a local path."""
    if not uri.strip():
        raise ValueError("is empty; allowed: s3://bucket/prefix/**/*.jpg or a local path")
    if "\0" in uri:
        raise ValueError(f"{uri!r} holds a NUL character, which no name can")
    if half := _HALF_A_SCHEME.match(uri.strip()):
        raise ValueError(
            f"{uri!r} lacks slashes behind {half[0]}; write s3://bucket/key, or ./{uri.strip()} for a folder"
        )
    scheme, rest = split_scheme(uri)
    if scheme.has_buckets and not scheme.is_only_read:
        bucket = rest.partition("/")[0]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._\-]{1,254}|\$(?:web|root|logs)", bucket):
            raise ValueError(f"{uri!r} names no valid bucket; write {scheme}://bucket/key")


def _check_catalog_folder(uri: str, place: str) -> None:
    """Refuse names that readers of Delta tables do not agree on how to escape; a folder that is there has its name."""
    scheme, folder = split_scheme(place)
    if scheme.is_only_read:
        raise ValueError(f"{uri!r} can only be read; a catalog lies in a bucket or a local folder")
    if scheme.has_buckets:
        bucket, _, key = folder.partition("/")
        if not key.strip("/"):
            raise ValueError(f"{uri!r} is a whole bucket; a catalog needs a folder: {scheme}://{bucket}/catalog")
        # A key may be so named, but Delta's clients read it as a path, and would write another place.
        if not {"", ".", ".."}.isdisjoint(key.rstrip("/").split("/")):
            raise ValueError(f"{uri!r}: the name of a catalog in a bucket has no //, /./ or /../; write where it leads")
    elif folder == "/":
        raise ValueError(f"{uri!r} is the root of the file system; a catalog needs a folder")
    else:
        folder = missing_part(folder)
    if _GLOB_CHARACTERS.search(folder):
        raise ValueError(f"{uri!r} holds a glob; a catalog is one folder")
    if scheme.has_buckets and not re.fullmatch(r"[A-Za-z0-9_.=/\-]+", folder):
        raise ValueError(f"{uri!r}: the name of a catalog in a bucket may hold letters, digits and _ . = - /")
    if re.search(r"[\\\]^|\x00-\x1f]", folder):
        raise ValueError(f"{uri!r}: the name of a catalog may not hold \\ ] ^ | or a control character")
    if re.search(r"%[0-9A-Fa-f]{2}", folder):
        raise ValueError(f"{uri!r}: the name of a catalog may not hold % and two hexadecimal digits")
