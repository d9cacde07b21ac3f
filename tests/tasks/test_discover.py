"""What was named, in a list or by notifications, is what a listing would give."""

from pathlib import Path
from typing import Any

from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.discover import discover


def test_the_marker_of_a_folder_is_no_object_however_it_is_named(bucket: Any, tmp_path: Path) -> None:
    marker, image = bucket.put("in/", b""), bucket.put("in/a.png", b"x")
    held = bucket.put("in/held/", b"an object all the same, which its name says to be a folder")
    (tmp_path / "uris.txt").write_text(f"{marker}\n{image}\n{held}\n")
    spec = EnrichmentSpec.model_validate(
        {
            "source": f"s3://{bucket.name}/",
            "catalog": f"s3://{bucket.name}/catalog",
            "store": {"endpoint_url": bucket.endpoint},
            "enrichments": [{"capability": "image captioning"}],
        }
    )
    named = spec.model_copy(update={"listing": (f"file://{tmp_path}/uris.txt",)})
    assert set(discover.fn(named).inventory["uri"]) == set(discover.fn(spec).inventory["uri"]) == {image, held}
