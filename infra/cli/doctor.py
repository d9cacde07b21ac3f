"""sightflow doctor: what is installed, reachable and configured here, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from sightflow.blocks.extras import install_command, is_installed
from sightflow.infra.cli.screen import console, safe
from sightflow.schemas.failure import SightflowError, SpecError
from sightflow.schemas.object_uri import Scheme, split_scheme
from sightflow.schemas.spec import EnrichmentSpec

_PACKAGES = {
    "prefect": "", "deltalake": "", "polars": "", "pandera": "", "s3fs": "", "duckdb": "", "av": "",
    "torch": "local", "transformers": "local", "openai": "openai", "google-genai": "gemini", "dashscope": "dashscope",
    "google-auth": "google", "azure-identity": "azure", "prefect-dask": "dask",
}  # fmt: skip
"""Distributions, and the extra that brings each; empty: every installation has it."""
Finding = tuple[str, str, str, str]


def doctor(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="Check the stores and models of a spec too.")
    ] = None,
) -> None:
    """Check this machine: packages, devices, Prefect, models; with a spec also its store, catalog and models."""
    with console.status("looking around ..."):
        findings = [*_packages(), *_machine(), *_prefect(), *(_models() if spec is None else _of_spec(spec))]
    _show(findings)
    if any(state == "missing" for _, state, _, _ in findings):
        raise typer.Exit(1)


def _show(findings: Sequence[Finding]) -> None:
    """A line a finding, and one more for its remedy: nothing is folded, however narrow the terminal is."""
    wide = max(len(state) for _, state, _, _ in findings)
    for what, state, found, remedy in findings:
        console.print(f"{state:{wide}}  [bold]{safe(what)}[/bold]  {safe(found)}", soft_wrap=True)
        if remedy:
            console.print(f"{'':{wide}}  [dim]-> {safe(remedy)}[/dim]", soft_wrap=True)


def _packages() -> Iterator[Finding]:
    for name, extra in _PACKAGES.items():
        try:
            yield name, "ok", version(name), ""
        except PackageNotFoundError:
            if extra:
                yield name, "not here", "not installed", install_command(extra)
            else:
                yield name, "missing", "not installed", "install sightflow anew: it belongs to every installation"


def _machine() -> Iterator[Finding]:
    yield "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}", ""
    if not is_installed("torch"):
        yield "GPU", "none", "torch is not installed: no model runs here", install_command("local")
    elif _cuda_is_available():
        import torch

        for k in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(k)
            yield f"cuda:{k}", "ok", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB", ""
    else:
        yield "GPU", "none", "models run on the CPU", "the demo does not need one; 7B models do"
    yield "disk", "ok", f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free here", ""


def _cuda_is_available() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _prefect() -> Iterator[Finding]:
    from prefect.settings import get_current_settings

    from sightflow.infra.configured_server import PrefectAway, configured_api

    url = get_current_settings().api.url
    if not url:
        yield (
            "prefect server",
            "ok",
            "none configured",
            "each run starts its own on loopback; set PREFECT_API_URL to share one",
        )
        return
    try:
        configured_api()
    except PrefectAway:
        yield "prefect server", "missing", f"{url} does not answer", "start it, or unset PREFECT_API_URL"
    except SightflowError as error:
        yield "prefect server", "missing", str(error), "see the message"
    else:
        yield "prefect server", "ok", url, ""


def _models() -> Iterator[Finding]:
    from sightflow.blocks.models.outside_systems import blamed_on, outside_systems
    from sightflow.blocks.models.registry import open_model
    from sightflow.blocks.models.systems import SYSTEMS

    for system in dict.fromkeys([*SYSTEMS, *outside_systems()]):
        try:
            model = open_model(system)
            with blamed_on(system, type(model)):
                available = model.availability()
        except SpecError as error:  # of a package that is not ours
            yield system, "not here", str(error), "mend or uninstall that package"
            continue
        yield system, "ok" if available.usable else "not here", available.why, available.remedy


def _models_of(spec: EnrichmentSpec) -> Iterator[Finding]:
    """Those that the spec configures or pins, as it does."""
    from sightflow.blocks.models.outside_systems import blamed_on
    from sightflow.blocks.models.registry import open_model

    pinned = (asked.model for asked in spec.enrichments if asked.model)
    for name in dict.fromkeys([*spec.models, *pinned]):
        try:
            model = open_model(*spec.model_entry(name))
            with blamed_on(name, type(model)):
                available = model.availability()
        except SightflowError as error:
            yield f"model {name}", "missing", str(error), "see the message"
            continue
        found = f"{model.ref.id}; {available.why}"
        yield f"model {name}", "ok" if available.usable else "missing", found, available.remedy


def _of_spec(path: Path) -> Iterator[Finding]:
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.open import open_catalog
    from sightflow.tasks.route import check_models, resolve_enrichments

    spec = check_models(read_spec(path))
    yield from _models_of(spec)
    yield from _listing(spec) if spec.listing else _sources(spec)
    try:
        catalog = open_catalog(spec)
        found = catalog.version()
        catalog.check_writable()
        yield f"catalog {spec.catalog}", "ok", "not yet made" if found is None else f"version {found}", ""
    except SightflowError as error:
        yield f"catalog {spec.catalog}", "missing", str(error), "see the message"
    try:
        for resolved, _ in resolve_enrichments(spec):
            yield f"enrichment {resolved.enrichment.name}", "ok", f"served by {resolved.systems[0]}", ""
    except SightflowError as error:
        yield "enrichments", "missing", str(error), "see the message"
    if not os.environ.get("AWS_ACCESS_KEY_ID") and any(split_scheme(uri)[0] is Scheme.S3 for uri in spec.source):
        yield "AWS keys", "ok", "none in the environment", "a profile or role is used, if there is one"


def _sources(spec: EnrichmentSpec) -> Iterator[Finding]:
    from sightflow.tasks.open import open_store

    for uri in spec.source:
        try:
            open_store(spec.store).check(uri)
            yield f"source {uri}", "ok", "can be listed", ""
        except SightflowError as error:
            yield f"source {uri}", "missing", str(error), "see the message"


def _listing(spec: EnrichmentSpec) -> Iterator[Finding]:
    """What is read in the place of the sources: their own listing may well be forbidden."""
    from sightflow.blocks.store.uri_lists import read_uri_list
    from sightflow.schemas.run.discovered import Skips
    from sightflow.schemas.spec import is_uri_list
    from sightflow.tasks.discover import s3_inventories
    from sightflow.tasks.open import open_store

    try:
        store = open_store(spec.store)
        for report in s3_inventories(spec, store):
            found = f"of {report.bucket}, {len(report.files)} {report.form} files"
            yield f"listing {report.uri}", "ok", found, ""
        for address in filter(is_uri_list, spec.listing):
            yield f"listing {address}", "ok", f"names {len(read_uri_list(store, address, Skips())):,} objects", ""
    except SightflowError as error:
        yield "listing", "missing", str(error), "see the message"
