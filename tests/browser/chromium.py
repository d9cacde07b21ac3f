"""The browser of the tests: a Chromium that an npm package carries whole, as its lock file names it."""

import os
import shutil
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[2] / ".tools/browser"
AXE = _FOLDER / "node_modules/axe-core/axe.min.js"


def browser_program() -> str:
    """The program: SIGHTFLOW_TEST_BROWSER, what `make .tools/browser/ready` has unpacked, or one of the system's."""
    given = os.environ.get("SIGHTFLOW_TEST_BROWSER")
    own = _FOLDER / "chromium"
    found = given or (str(own) if own.exists() else None) or shutil.which("chromium") or shutil.which("google-chrome")
    return found or ""


def launch_settings() -> dict[str, Any]:
    """How Playwright starts it: with the libraries and fonts that lie beside it, for machines that have none."""
    own = {"LD_LIBRARY_PATH": str(_FOLDER / "lib"), "FONTCONFIG_FILE": str(_FOLDER / "fonts.conf")}
    program = browser_program()
    return {
        "executable_path": program,
        "args": ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        "env": {**os.environ, **(own if program.startswith(str(_FOLDER)) else {})},
    }


def why_no_browser() -> str:
    """Why there is none; an empty text if there is one."""
    if not browser_program() or not AXE.exists():
        return "NO BROWSER, SO NOTHING OF THE GALLERY'S PAGES IS TESTED; run: make .tools/browser/ready"
    return ""
