"""Objects as buckets hold them: each ends with its cause or a right result, and costs its neighbours nothing."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.flows.enrich import enrich
from sightflow.infra.demo.bucket import bomb
from sightflow.schemas.spec import StoreSettings
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks import fetch

pytestmark = pytest.mark.usefixtures("prefect_server")
ASKED = [
    {"capability": "image captioning", "name": "caption"},
    {"capability": "object detection", "name": "objects", "labels": ["dark"]},
]
UPRIGHT_BOX = (10, 5, 30, 15)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_box() -> Image.Image:
    """White, 60 x 40 pixels, with a dark box."""
    image = Image.new("RGB", (60, 40), "white")
    image.paste((0, 0, 0), UPRIGHT_BOX)
    return image


def turned(orientation: int) -> bytes:
    """The picture as a camera stores it that was held like this: turned pixels, and a tag that says how to undo it."""
    undo = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    image = with_box()
    if orientation in undo:
        image.getexif()[0x0112] = undo[orientation]
        image = ImageOps.exif_transpose(image)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", quality=100, subsampling=0, exif=exif)


def inputs() -> tuple[dict[str, bytes], dict[str, str]]:
    """Objects by key, and the cause that those must end with which cannot be published."""
    red = Image.new("RGB", (16, 16), (200, 0, 0))
    jpeg = encoded(Image.effect_noise((64, 64), 60).convert("RGB"), "JPEG")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([200, 0, 0, 0, 0, 0])
    good = {
        "png named.jpg": encoded(red),
        "cmyk.jpg": encoded(red.convert("CMYK"), "JPEG"),
        "16 bits.png": encoded(Image.new("I;16", (16, 16), 51400)),
        "palette.png": encoded(palette, transparency=1),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "one pixel.png": encoded(Image.new("RGB", (1, 1), (200, 0, 0))),
        "keys/with spaces, ünïcode 図, # ? % %41 + & =.png": encoded(red),
        "long/" + "/".join(["k" * 240] * 4) + ".png": encoded(red),
        **{f"turned-{k}.jpg": turned(k) for k in range(1, 9)},
    }
    bad = {
        "empty.jpg": (b"", "unreadable"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "decode"),
        "text.jpg": (b"this is a text", "unsupported"),
        "header only.png": (encoded(red)[:20], "unreadable"),
        "bomb.png": (bomb(20_000, 20_000), "too_large"),
        "film.jpg": (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(50), "unsupported"),
    }
    return {**good, **{k: content for k, (content, _) in bad.items()}}, {k: cause for k, (_, cause) in bad.items()}


def outcome(spec: Path, root: str, store: ObjectStore | None = None) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Rows by (key, enrichment), and the causes of each key in quarantine."""
    catalog = Catalog(uri=read_spec(spec).catalog, **({"store": store} if store else {}))
    rows = {
        (row["uri"].removeprefix(root), row["enrichment"]): row
        for row in catalog.scan("enrichments").collect().iter_rows(named=True)
    }
    failed: dict[str, set[str]] = {}
    for row in catalog.scan("quarantine").collect().iter_rows(named=True):
        failed.setdefault(row["uri"].removeprefix(root), set()).add(row["cause"])
    return rows, failed


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_each_ends_with_its_cause_or_a_right_result(
    where: str, bucket: Any, tmp_path: Path, write_spec: Any, stand_in: Any
) -> None:
    objects, causes = inputs()
    if where == "bucket":
        for key, content in objects.items():
            bucket.put(f"in/{key}", content)
        source, store = f"s3://{bucket.name}/in/**", {"endpoint_url": bucket.endpoint}
        root = f"s3://{bucket.name}/in/"
    else:
        objects["a line\nbreak.png"] = encoded(Image.new("RGB", (4, 4)))
        for key, content in objects.items():
            (tmp_path / "in" / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / key).write_bytes(content)
        source, store, root = f"{tmp_path}/in/**", {}, f"file://{tmp_path}/in/"
    spec = write_spec(source, enrichments=ASKED, store=store)
    report = enrich(read_spec(spec))
    rows, failed = outcome(spec, root)
    assert failed == {key: {cause} for key, cause in causes.items()}
    assert {key for key, _ in rows} == set(objects) - set(causes)
    assert report.published + report.quarantined == 2 * len(objects)
    for orientation in range(1, 9):
        (region,) = rows[f"turned-{orientation}.jpg", "objects"]["regions"]
        assert (rows[f"turned-{orientation}.jpg", "objects"]["width"], region["label"]) == (60, "dark")
        box = [region[edge] for edge in ("x_min", "y_min", "x_max", "y_max")]
        assert box == pytest.approx(UPRIGHT_BOX, abs=1)
    for key in ("png named.jpg", "cmyk.jpg", "palette.png", "animated.gif"):
        red, green, blue = json.loads(rows[key, "caption"]["text"])
        assert red > 180 and green < 40 and blue < 40, key
    assert json.loads(rows["16 bits.png", "caption"]["text"]) == [200, 200, 200]


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_what_is_replaced_or_deleted_between_plan_and_fetch_is_told_and_found_by_the_next_run(
    where: str, bucket: Any, tmp_path: Path, write_spec: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(name: str, content: bytes) -> None:
        if where == "bucket":
            bucket.put(f"in/{name}", content)
        else:
            (tmp_path / "in").mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_bytes(content)

    def delete(name: str) -> None:
        bucket.delete(f"in/{name}") if where == "bucket" else (tmp_path / "in" / name).unlink()

    for name in ("stays.png", "replaced.png", "deleted.png"):
        put(name, encoded(Image.new("RGB", (4, 4), (10, 10, 10))))
    if where == "bucket":
        source, store, root = f"s3://{bucket.name}/in/**", {"endpoint_url": bucket.endpoint}, f"s3://{bucket.name}/in/"
    else:
        source, store, root = f"{tmp_path}/in/*", {}, f"file://{tmp_path}/in/"
    spec = write_spec(source, store=store)
    open_store, meddled = fetch._store, []

    def meddling(settings: StoreSettings) -> ObjectStore:
        if not meddled:
            meddled.append(True)
            put("replaced.png", encoded(Image.new("RGB", (5, 5), (99, 0, 0))))
            delete("deleted.png")
        return open_store(settings)

    monkeypatch.setattr(fetch, "_store", meddling)
    enrich(read_spec(spec))
    rows, failed = outcome(spec, root)
    assert set(rows) == {("stays.png", "caption")}
    assert failed == {"replaced.png": {"changed"}, "deleted.png": {"changed"}}
    enrich(read_spec(spec))
    rows, failed = outcome(spec, root)
    assert json.loads(rows["replaced.png", "caption"]["text"]) == [99, 0, 0]
    assert not failed
