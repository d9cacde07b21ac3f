"""What Prefect's UI links to from a block: the project's pages. Whoever moves the project changes them here."""

from __future__ import annotations

_REPOSITORY = "github.com/sightflow/sightflow"
LOGO = "https://raw.githubusercontent.com/sightflow/sightflow/main/docs/images/logo.png"


def documentation(page: str) -> str:
    """The address of a page in docs/, e.g. `models.md`."""
    return f"https://{_REPOSITORY}/blob/main/docs/{page}"
