"""What a run keeps on the disk goes with it, also when it is killed."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sightflow.tasks.runtime.temporary_folder import TemporaryFolder

ROOT = Path(__file__).parents[3]
HOLDS = """
import subprocess, sys, time
from sightflow.tasks.runtime.temporary_folder import TemporaryFolder
folder = TemporaryFolder("videos")
(folder.path / "film").write_bytes(b"x")
if sys.argv[1:]:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[folder.lock])
print(folder.path, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def holder(temporary: Path, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder, in a session of its own, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, *arguments],
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_goes_with_its_block_with_its_object_and_only_once(temporary: Path) -> None:
    with TemporaryFolder("videos") as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700
        (folder.path / "film").write_bytes(b"x")
    folder.remove()
    assert not folder.path.exists()
    lost = TemporaryFolder("videos").path
    gc.collect()
    assert not lost.exists() and list(temporary.iterdir()) == []


def test_that_of_a_killed_process_is_removed_by_the_next_and_no_other(temporary: Path) -> None:
    (foreign := temporary / "sightflow-videos-of-somebody").mkdir()
    process, stale = holder(temporary)
    with TemporaryFolder("prefect"):
        assert (stale / "film").exists(), "it is in use"
    process.kill()
    process.wait()
    with TemporaryFolder("prefect") as mine:
        assert sorted(temporary.iterdir()) == sorted([foreign, mine.path])


def test_it_is_in_use_as_long_as_a_process_has_its_lock(temporary: Path) -> None:
    process, shared = holder(temporary, "and a child")
    process.kill()
    process.wait()
    with TemporaryFolder("videos"):
        assert shared.exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with TemporaryFolder("videos"):
        assert not shared.exists()
