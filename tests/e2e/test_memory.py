"""A small `policy.memory` holds in a run of large images, videos and small images, and everything gets its row."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.spec_reader import read_spec
from tests.videos import write_video

ROOT = Path(__file__).parents[2]
RUN = """
import re, sys
from pathlib import Path
from sightflow.blocks.models.registry import SYSTEMS
SYSTEMS["florence-2"] = "tests.stand_in_model:StandIn"
from sightflow.flows.enrich import enrich
from sightflow.schemas.spec_reader import read_spec
# Not ru_maxrss, which a process inherits from the one that started it.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) // 1024
small, large = map(read_spec, sys.argv[1:])
enrich(small)  # what is loaded once
before = peak()
enrich(large)
print("grown", peak() - before)
"""


@pytest.mark.usefixtures("prefect_server")
def test_large_images_stay_within_the_memory_they_are_given(tmp_path: Path, write_spec: Any) -> None:
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 64), (9, 200, 30)).save(tmp_path / "small" / "0.jpg")
    write_video(tmp_path / "small" / "0.mp4", range(0, 1000, 100))
    for k in range(24):
        Image.new("RGB", (2600, 2500), (k, 9, 9)).save(tmp_path / "large" / f"{k:02}.jpg")
    Image.new("RGB", (3100, 3000)).save(tmp_path / "large" / "never fits.png")
    write_video(tmp_path / "large" / "film.mp4", range(0, 3000, 100))
    paths = []
    for name in ("small", "large"):
        written = write_spec(
            f"{tmp_path}/{name}/*",
            catalog=str(tmp_path / "catalogs" / name),
            policy={"memory": "128MiB", "max_quarantine_ratio": 1.0},
            enrichments=[{"capability": c, "name": c[:5]} for c in ("image captioning", "video captioning")],
        )
        paths.append(written.rename(tmp_path / f"{name}.yaml"))
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, paths)],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True,
    )  # fmt: skip
    catalog = Catalog(uri=read_spec(paths[1]).catalog)
    assert catalog.scan("enrichments").collect().height == 24 + 1
    (failed,) = catalog.scan("quarantine").collect().iter_rows(named=True)
    assert failed["cause"] == "too_large" and "policy.memory leaves 64 MiB for pixels" in failed["message"]
    # Of pixels 64 MiB; a group of 16 and half the next would be 600: an image takes 25 MiB, and 50 as it is decoded.
    found = re.search(r"grown (\d+)", done.stdout)
    assert found and int(found[1]) < 250
