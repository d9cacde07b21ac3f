"""The benchmark against what people would pick instead: what of it holds without the rivals installed."""

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.rivals import runner
from sightflow.infra.demo.bucket import MODEL_FOLDER
from tests.conftest import Bucket

LOCK = (runner.ROOT / "requirements.lock").read_text()


@pytest.fixture
def sizes(bucket: Bucket) -> dict[str, str]:
    """Forty pictures under in/, more than two batches, and one beside it; what the stand-in says of each."""
    said = {}
    for k in range(40):
        buffer = io.BytesIO()
        Image.new("RGB", (20 + k, 30)).save(buffer, "JPEG")
        bucket.put(f"in/{k:03d}.jpg", buffer.getvalue())
        said[f"in/{k:03d}.jpg"] = f"{20 + k} by 30"
    bucket.put("other/000.jpg", buffer.getvalue())
    return said


@pytest.mark.parametrize("name", ["naive", "careful"])
def test_a_loop_gives_each_key_its_own_row(name: str, bucket: Bucket, sizes: dict[str, str], tmp_path: Path) -> None:
    done = runner.measure(name, bucket.endpoint, bucket.name, "in/", "device", MODEL_FOLDER, tmp_path)
    assert isinstance(done, runner.Outcome), done
    assert done.captions == sizes
    assert done.rows == 40
    assert 0 < done.first_row_seconds <= done.seconds  # both of one clock
    assert done.peak_memory_bytes > 0


@pytest.mark.parametrize("file", sorted(runner.HERE.glob("requirements-*.txt")), ids=lambda file: file.stem)
def test_rivals_are_given_the_libraries_of_the_lock(file: Path) -> None:
    pins = file.read_text().split()
    assert all("==" in pin for pin in pins)
    shared = [pin for pin in pins if re.match(r"(torch|torchvision|transformers|pillow|boto3|psutil)==", pin)]
    assert len(shared) == 6
    assert [pin for pin in shared if f"\n{pin} " not in LOCK] == []


def test_a_rival_that_does_not_install_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses = tmp_path / "uv"
    refuses.write_text("#!/bin/sh\necho 'no solution found' >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("UV", str(refuses))
    monkeypatch.setattr(runner, "ENVIRONMENTS", tmp_path)
    said = runner.measure("daft", "http://127.0.0.1:9", "b", "in/", "device", MODEL_FOLDER, tmp_path / "out")
    assert said == "does not install here: no solution found"
    assert "daft | skipped: does not install here" in runner.table({"daft": said})
