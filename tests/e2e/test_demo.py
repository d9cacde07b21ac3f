"""`sightflow demo` as a newcomer types it, on a machine without a Prefect server."""

import os
import subprocess
from pathlib import Path

import psutil

from sightflow.blocks.catalog.catalog import Catalog
from tests.installed import Installed

MARK = "SIGHTFLOW_TEST_OF_THE_DEMO"


def started_by_it() -> list[str]:
    """Whatever still runs of all that the demo started, also what left its session: it inherited the mark."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(os.getpid()):
                left.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return left


def test_the_demo_shows_the_whole_job_and_leaves_nothing_running(tmp_path: Path, installed: Installed) -> None:
    here = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    environment = here | {"PYTHONPATH": ".", "COLUMNS": "120", MARK: str(os.getpid())}
    command = [installed.program, "demo", "--videos", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert not [word for word in ("Traceback", "Warning", "ERROR") if word in done.stdout], done.stdout
    assert not started_by_it()
    assert [path.name for path in tmp_path.iterdir()] == ["demo-output"]
    told, _, again = done.stdout.partition("the same again")
    pages = tmp_path / "demo-output/gallery"
    assert "demo-output/gallery/index.html" in done.stdout
    assert len(list((pages / "objects").iterdir())) == 67 and len(list((pages / "thumbnails").iterdir())) == 61
    assert "182 published, 18 quarantined" in told
    assert "drawn shapes" in told.partition("note florence-2: ")[2]  # what its weights say of themselves
    assert "nothing to do: 182 results of 67 objects are up to date" in again
    catalog = Catalog(uri=f"file://{tmp_path}/demo-output/catalog")
    rows = catalog.scan("enrichments").collect()
    counts = {(name, kind): n for name, kind, n in rows.group_by("enrichment", "media_kind").len().iter_rows()}
    images = dict.fromkeys([("caption", "image"), ("objects", "image"), ("stars", "image")], 60)
    assert counts == {**images, ("film", "video"): 1, ("tracks", "video"): 1}
    causes = dict(catalog.scan("quarantine").collect()["cause"].value_counts().iter_rows())
    assert causes == {"decode": 6, "too_large": 3, "unreadable": 3, "unsupported": 6}
