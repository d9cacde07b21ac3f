"""A package of somebody else's, and its wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def wheel(folder: Path) -> Path:
    """The package as a wheel (https://packaging.python.org/specifications/binary-distribution-format)."""
    path = folder / "sightflow_spots-1.2-py3-none-any.whl"
    files = [file for file in HERE.glob("sightflow_spots*/*") if file.is_file()]
    with zipfile.ZipFile(path, "w") as out:
        for file in files:
            out.write(file, file.relative_to(HERE))
        names = [str(file.relative_to(HERE)) for file in files]
        record = "sightflow_spots-1.2.dist-info/RECORD"
        out.writestr(record, "".join(f"{name},,\n" for name in [*names, record]))
    return path


def install(built: Path, target: Path) -> Path:
    """Install a wheel into a folder, without its dependencies and without any network."""
    uv = shutil.which("uv", path=f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert uv, "run the tests by make, which installs uv"
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--target", str(target), str(built)]
    subprocess.run(command, check=True, timeout=120)
    return target
