"""Prefect artifacts that cost a run nothing: what Prefect does not take is logged and left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec

import httpx
from prefect.context import FlowRunContext, SettingsContext
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings

from sightflow.schemas.object_uri import split_scheme

P = ParamSpec("P")

_NOT_IN_A_KEY = re.compile(r"[^a-z0-9]+")


def artifact_key(catalog: str, kind: str) -> str:
    """The key of a catalog's artifact, e.g. `sightflow-shop-catalog-report` for `s3://shop/catalog`."""
    slug = _NOT_IN_A_KEY.sub("-", split_scheme(catalog)[1].lower()).strip("-")
    return f"sightflow-{slug}-{kind}"


def best_effort(show: Callable[P, None]) -> Callable[P, None]:
    """Outside a flow run nothing is shown; within one, what cannot be shown is logged and costs nothing."""

    @wraps(show)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> None:
        if FlowRunContext.get() is None:
            return
        try:
            with _few_retries():
                show(*args, **kwargs)
        except Exception as error:  # whatever it is: nothing that is only shown may cost a run
            is_prefect_away = isinstance(error, httpx.HTTPError | OSError)
            get_run_logger().warning(
                "not shown in Prefect: %s", type(error).__name__, exc_info=None if is_prefect_away else error
            )

    return attempt


def _few_retries() -> AbstractContextManager[Any]:
    """Prefect is not asked again and again for a minute, as for what matters.

    A copy of the settings: `temporary_settings` reads them all anew, which takes 26 ms, at each commit too.
    """
    now = get_current_settings()
    client = now.client.model_copy(update={"max_retries": 1})
    context = SettingsContext.get()
    assert context is not None
    return SettingsContext(profile=context.profile, settings=now.model_copy(update={"client": client}))
