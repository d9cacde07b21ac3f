"""A system of a package of somebody else's, through the whole program: by its entry point, and by its class."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.spec_reader import read_spec
from tests import outside_package
from tests.e2e.test_command_line import sightflow

DETECT = {"capability": "object detection", "name": "spots", "labels": ["spot"], "model": "mine"}
TRACK = {"capability": "object tracking", "name": "tracks", "labels": ["spot"], "model": "mine"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    return outside_package.install(outside_package.wheel(folder), folder / "packages")


def run(*words: str | Path, packages: Path) -> subprocess.CompletedProcess[str]:
    start = "from sightflow.infra.cli import main; main()"
    environment = {**os.environ, "COLUMNS": "400", "PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", start, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def with_a_spot(left: int) -> Image.Image:
    image = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(image).rectangle((left, 10, left + 19, 29), fill="black")
    return image


def write_film(path: Path, images: list[Image.Image]) -> None:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=4, options={"crf": "8"})
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv444p"
        for image in images:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        out.mux(stream.encode())


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("named", [{"system": "spots"}, {"class": "sightflow_spots:Spots"}], ids=["system", "class"])
def test_it_is_run_as_one_of_ours(named: dict[str, str], packages: Path, tmp_path: Path, write_spec: Any) -> None:
    media = tmp_path / "media"
    media.mkdir()
    with_a_spot(40).save(media / "image.png")
    write_film(media / "film.mp4", [with_a_spot(4 * k) for k in range(8)])
    spec = write_spec(f"{media}/*", enrichments=[DETECT, TRACK], models={"mine": {**named, "level": 100}})
    done = run("run", spec, packages=packages)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = Catalog(uri=read_spec(spec).catalog).scan("enrichments").collect()
    assert set(rows["system"]) == {"mine"} and set(rows["model_id"]) == {"spots"}
    (image,) = rows.filter(enrichment="spots", media_kind="image")["regions"].to_list()[0]
    assert [image[edge] for edge in ("x_min", "y_min", "x_max", "y_max")] == pytest.approx([40, 10, 60, 30], abs=0.001)
    ((track,),) = rows.filter(enrichment="tracks")["tracks"].to_list()
    assert track["label"] == "spot" and len(track["points"]) > 3, "it follows the spot by what is inherited"
    listed = run("models", packages=packages)
    assert "spots: of sightflow-spots 1.2; used where a spec names it" in listed.stdout


@pytest.mark.usefixtures("prefect_server")
def test_a_broken_package_is_named_and_costs_nothing_where_it_is_not_used(tmp_path: Path, write_spec: Any) -> None:
    packages = tmp_path / "packages"
    facts = packages / "hostile-0.1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text(
        "[sightflow.systems]\nhostile = hostile:Model\nflorence-2 = hostile:Model\n"
    )
    (packages / "hostile.py").write_text(
        "import pathlib, sys\npathlib.Path(__file__).with_name('ran').touch()\nsys.exit(7)\n"
    )
    media = tmp_path / "media"
    media.mkdir()
    with_a_spot(40).save(media / "image.png")
    caption = {"capability": "image captioning", "name": "caption"}
    spec = write_spec(f"{media}/*", enrichments=[caption])
    planned = run("plan", spec, packages=packages)
    assert planned.returncode == 0 and "florence-2" in planned.stdout, planned.stderr
    assert not (packages / "ran").exists(), "it was imported where nobody named it"
    spec = write_spec(f"{media}/*", enrichments=[caption | {"model": "hostile"}])
    refused = run("plan", spec, packages=packages)
    said = " ".join((refused.stdout + refused.stderr).split())
    assert refused.returncode == 2 and "Traceback" not in said
    assert "the system 'hostile' of hostile 0.1: hostile:Model cannot be imported: SystemExit: 7" in said
    assert sightflow("--version", real=True).returncode == 0
