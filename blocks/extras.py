"""What is installed only with an extra of the package, and the command that installs it."""

from __future__ import annotations

from importlib.util import find_spec

from sightflow.schemas.failure import MissingExtra


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of a namespace that is not there itself: google.genai
        return False


def install_command(extra: str) -> str:
    """What to type to install an extra."""
    return f"pip install 'sightflow[{extra}]'"


def require(package: str, extra: str, purpose: str) -> None:
    """Raises MissingExtra, with the command, if a package is not installed. `purpose`: what needs it."""
    if not is_installed(package):
        raise MissingExtra(f"{purpose} needs {package}, which is not installed; run: {install_command(extra)}")
