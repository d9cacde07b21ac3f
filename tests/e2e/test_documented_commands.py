"""Every command on a page is run against a catalog, but for those that serve until they are ended or ask the world."""

import json
import shlex
from pathlib import Path

import polars as pl
import pytest
import yaml
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.spec_reader import read_spec
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from tests.command_line import app
from tests.infra.docs_site.test_pages import PAGES, commands
from tests.schemas.tables.test_catalog import receipt

pytestmark = pytest.mark.usefixtures("prefect_server", "stand_in")
ELSEWHERE = {
    ("serve",): "test_server_ends, test_uploads, test_schedule",
    ("deploy",): "test_deployments",
    ("worker",): "test_uploads",
    ("bridge",): "test_uploads",
    ("review",): "tests/infra/gallery/test_review.py",
    ("demo",): "test_demo",
    ("models", "pull"): "tests/blocks/models/test_weights.py: it asks the hub",
    ("--install-completion",): "it changes the shell of who runs it",
}
ASKS_A_VENDOR = {"--exact", "gpt-4o"}
"""Those of hosted models: tests/infra/test_money_commands.py, tests/e2e/test_selection.py."""
FIRST = (["run"], ["export"], ["label", "import"])
LAST = ["catalog", "restore"]


def is_elsewhere(words: list[str]) -> bool:
    served = words[0] == "gallery" and "--out" not in words  # tests/infra/gallery
    return served or bool(ASKS_A_VENDOR & set(words)) or any(tuple(words[: len(each)]) == each for each in ELSEWHERE)


def unique() -> list[list[str]]:
    """Each command once, in an order in which what one needs has been made by another."""
    found = {shlex.join(words): words for page in PAGES for words in commands(page.read_text())}
    turns = [*FIRST, LAST]

    def turn(words: list[str]) -> int:
        places = [k for k, each in enumerate(turns) if words[: len(each)] == each]
        return 1 + len(FIRST) if not places else places[0] if places[0] < len(FIRST) else 2 + len(FIRST)

    return sorted((words for words in found.values() if not is_elsewhere(words)), key=turn)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the pages call a spec, a catalog and a folder, and what stands for it here."""
    media = tmp_path / "media/2026"
    media.mkdir(parents=True)
    for k in range(9):
        image = Image.new("RGB", (40, 30), (250, 200, 100 + k))
        ImageDraw.Draw(image).rectangle((5, 5, 15 + k, 20), fill=(0, 0, 0))
        image.save(media / f"{k}.png")
    (media / "broken.jpg").write_bytes(b"no picture")
    spec = {
        "source": f"{tmp_path}/media/**",
        "catalog": f"{tmp_path}/catalog",
        "enrichments": [
            {"capability": "image captioning", "name": "caption"},
            {"capability": "object detection", "name": "objects", "labels": ["dark"]},
        ],
        "policy": {"shard_size": 1, "commit_rows": 1, "max_quarantine_ratio": 1.0, "budget": {"day": 5}},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    asked = {"schema": {"type": "object", "properties": {"shop": {"type": "string"}, "total": {"type": "number"}}}}
    fields = receipt('{"shop": "Corner", "total": 120}', parameters=json.dumps(asked), enrichment="receipt")
    rows = pl.DataFrame([fields | {"uri": f"file://{media}/0.png"}], schema=CATALOG_SCHEMA)
    Catalog(uri=f"file://{tmp_path}/catalog").publish(rows)
    monkeypatch.chdir(tmp_path)
    catalogs = ("URI", "s3://photos-catalog/main", "demo-output/catalog", "shapes-catalog")
    return {
        **dict.fromkeys(("spec.yaml", "shapes.yaml"), str(path)),
        **dict.fromkeys(catalogs, str(tmp_path / "catalog")),
        "FOLDER": str(tmp_path / "site"),
    }


def test_what_the_pages_say_can_be_typed(written: dict[str, str]) -> None:
    asked = unique()
    assert len(asked) > 25
    for words in asked:
        done = CliRunner().invoke(app, [written.get(word, word) for word in words], env={"COLUMNS": "200"})
        assert done.exit_code == 0, (shlex.join(words), done.output, done.exception)
    assert Path("site/index.html").exists()
    catalog = Catalog(uri=read_spec(Path(written["spec.yaml"])).catalog)
    assert catalog.scan("labels").collect().height > 0 and catalog.scan("enrichments").collect().height > 1
