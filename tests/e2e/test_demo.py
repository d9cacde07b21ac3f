"""The start page as a newcomer types it, `sightflow demo` first, on a machine without a Prefect server."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import psutil

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.demo.bucket import MODEL_FOLDER
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


def test_what_the_start_page_says_works_and_the_demo_leaves_nothing_running(
    tmp_path: Path, installed: Installed
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "start.md").read_text()
    (spec,) = re.findall(r'^```yaml title="shapes.yaml"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    (tmp_path / "shapes.yaml").write_text(spec.replace("MODEL_FOLDER", str(MODEL_FOLDER)))
    here = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    environment = here | {"PYTHONPATH": ".", "COLUMNS": "120", MARK: str(os.getpid())}
    said: dict[str, str] = {}
    for line in "".join(re.findall(r"^```demo\n(.*?)^```", page, re.MULTILINE | re.DOTALL)).splitlines():
        command = [installed.program, *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        progress = re.compile(r"\d\d:\d\d:\d\d (starting|loading|planned|listing|enriching|nothing to do)")
        assert all(progress.match(told) for told in done.stderr.splitlines()), (line, done.stderr)
        assert not [word for word in ("Traceback", "Warning", "ERROR") if word in done.stdout], done.stdout
        said[line] = said.get(line, "") + done.stdout
    assert not started_by_it()
    demo = next(out for line, out in said.items() if line.startswith("sightflow demo"))
    told, _, again = demo.partition("the same again")
    assert "40 published, 18 quarantined" in told
    assert "drawn shapes" in told.partition("note florence-2: ")[2]  # what its weights say of themselves
    assert "nothing to do: 40 results of 20 objects are up to date" in again
    assert "24 published, 0 quarantined" in said["sightflow run shapes.yaml"]
    assert "nothing to do: 24 results of 12 objects" in said["sightflow run shapes.yaml"]
    catalog = Catalog(uri=f"file://{tmp_path}/demo-output/catalog")
    rows = catalog.scan("enrichments").collect()
    counts = {(name, kind): n for name, kind, n in rows.group_by("enrichment", "media_kind").len().iter_rows()}
    images = dict.fromkeys([("caption", "image"), ("objects", "image"), ("stars", "image")], 12)
    assert counts == {**images, ("film", "video"): 2, ("tracks", "video"): 2}
    causes = dict(catalog.scan("quarantine").collect()["cause"].value_counts().iter_rows())
    assert causes == {"decode": 6, "too_large": 3, "unreadable": 3, "unsupported": 6}
