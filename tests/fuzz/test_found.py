"""Inputs that fuzzing has found, each with what it comes to now."""

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from sightflow.blocks.models.registry import open_model
from sightflow.blocks.store import s3_inventory
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.uri_lists import read_uri_list
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import StoreError
from sightflow.schemas.geometry import GeometryError
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.run.discovered import Skips
from sightflow.schemas.vision import VisionRequest

FIELDS = ("bucket", "key", "size", "lastmodifieddate", "etag")


def report(form: str) -> s3_inventory.S3Inventory:
    return s3_inventory.S3Inventory("s3://reports/manifest.json", "photos", form, FIELDS, ())


def test_a_place_of_more_digits_than_a_number_holds_lies_outside_the_picture() -> None:
    model = open_model("florence-2")
    asked = Enrichment.model_validate({"capability": "grounding", "phrases": ["a box"]})
    image = DecodedImage(Image.new("RGB", (64, 48)), 64, 48, "0" * 64)
    (prompt,) = model.prompts(asked, MediaKind.IMAGE)
    for digits in (400, 5000):
        with pytest.raises(GeometryError):
            model.parse(VisionRequest("s3://bucket/x", asked, image), prompt, "box" + f"<loc_{'9' * digits}>" * 4)


@pytest.mark.parametrize(
    "row",
    ["photos", "photos,,3,2026-11-01T00:00:00.000Z,e", "photos,b.jpg,many,,e", "photos,b.jpg,99999999999999999999,,e"],
)
def test_one_broken_row_of_an_inventory_costs_no_other(row: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"photos,a.jpg,3,2026-11-01T00:00:00.000Z,e\n{row}\n")
    objects = s3_inventory._objects(report("CSV"), "s3://reports/rows", path, lambda uri: True, Skips())
    assert objects["uri"].to_list() == ["s3://photos/a.jpg"]


def test_a_parquet_file_that_has_polars_panic_is_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panics(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("assertion `left == right` failed")

    path = tmp_path / "rows.parquet"
    pl.DataFrame({"uri": ["s3://photos/a.jpg"]}).write_parquet(path)
    monkeypatch.setattr(pl, "scan_parquet", panics)
    monkeypatch.setattr(pl, "read_parquet", panics)
    with pytest.raises(StoreError, match="cannot be read: assertion"):
        s3_inventory._objects(report("Parquet"), "s3://reports/rows", path, lambda uri: True, Skips())
    with pytest.raises(StoreError, match="cannot be read: assertion"):
        read_uri_list(ObjectStore(), f"file://{path}", Skips())


def test_an_orc_file_of_no_rows_at_all_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import orc

    path = tmp_path / "rows.orc"
    orc.write_table(pa.table({"key": ["a.jpg"]}), str(path))
    path.write_bytes(path.read_bytes()[:-8] + b"ORC\x03    ")
    with pytest.raises(StoreError, match="cannot be read"):
        s3_inventory._objects(report("ORC"), "s3://reports/rows", path, lambda uri: True, Skips())
