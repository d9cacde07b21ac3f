"""The package as a user has it: its wheel in an environment that knows nothing of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it. Its dependencies are those that are installed here."""

    folder: Path
    wheel: Path

    @property
    def program(self) -> Path:
        return self.folder / "bin" / "sightflow"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder of the user's, which Python looks into first."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=kept | {"PYTHONPATH": ".", "COLUMNS": "200"} | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def names(self) -> set[str]:
        """What the wheel puts into site-packages."""
        with zipfile.ZipFile(self.wheel) as wheel:
            return {name.partition("/")[0] for name in wheel.namelist()}


def install(folder: Path) -> Installed:
    """Build the wheel, and install it into a fresh environment."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # A line of a .pth file is a folder to look into: the packages are found, and not this project's own .pth file.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    uv = shutil.which("uv", path=f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert uv, "run the tests by make, which installs uv"
    python = environment / "bin" / "python"
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--python", str(python), str(wheel)]
    subprocess.run(command, check=True, timeout=120)
    return Installed(environment, wheel)
