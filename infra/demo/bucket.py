"""The demo's bucket: an S3 endpoint on loopback, scenes and films whose truth is known, and six broken objects."""

from __future__ import annotations

import io
import json
import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sightflow.infra.demo.moving_scenes import draw_clip, write_video
from sightflow.infra.demo.scenes import Scene, draw_scene

BUCKET: Final = "sightflow-demo"
MODEL_FOLDER: Final = Path(__file__).parent / "florence2-shapes"
VIDEO_MODEL_FOLDER: Final = Path(__file__).parent / "qwen2-vl-shapes"
# The endpoint takes any keys; these are not secrets.
_ASKED_OF_AN_IMAGE: Final = 3
KEYS: Final = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_on_loopback() -> Iterator[str]:
    """Yield the URL of an S3 endpoint in this process, that forgets everything when the block ends."""
    # moto's server tells every request, which is not for this screen.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    import moto.server

    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


def draw_media(folder: Path, scenes: int, videos: int = 0) -> list[Scene]:
    """Write held-out scenes, films and six broken files into a folder, with `truth.json` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw_scene(seed) for seed in range(scenes)]
    truth = {}
    for scene in drawn:
        # Every third is a JPEG, as media mostly are; its truth is that of the drawing.
        name = f"scenes/{scene.seed:04d}.{'jpg' if scene.seed % 3 == 0 else 'png'}"
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        scene.image.save(path, quality=95, subsampling=0)  # the PNG writer ignores both
        objects = [{"label": thing.label, "box": thing.box} for thing in scene.objects]
        truth[name] = {"caption": scene.caption, "objects": objects}
    for seed in range(videos):
        clip = draw_clip(seed)
        name = f"films/{seed:04d}.mp4"
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(clip, folder / name)
        truth[name] = {"caption": clip.caption, "objects": []}
    (folder.parent / "truth.json").write_text(json.dumps(truth, indent=1))
    for name, content in broken_files(drawn[0]).items():
        path = folder / "uploads" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return drawn


def broken_files(scene: Scene) -> dict[str, bytes]:
    """Six objects as buckets hold them: each must end in quarantine with its own cause, none may stop the run."""
    whole = io.BytesIO()
    scene.image.save(whole, "JPEG", quality=95)
    png = io.BytesIO()
    scene.image.save(png, "PNG")
    damaged = bytearray(png.getvalue())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 64] = bytes(64)
    return {
        "empty.jpg": b"",
        "half an upload.jpg": whole.getvalue()[: len(whole.getvalue()) // 2],
        "notes.jpg": b"these are notes, not a picture\n",
        "damaged.png": bytes(damaged),
        "report.png": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
        "bomb.png": bomb(20_000, 20_000),
    }


def bomb(width: int, height: int) -> bytes:
    """A PNG (https://www.w3.org/TR/png/) of a few hundred kilobytes that says it is width x height pixels of white."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # one bit a pixel, greyscale
    packer = zlib.compressobj(9)
    row = b"\0" + b"\xff" * ((width + 7) // 8)
    rows = b"".join([*(packer.compress(row * 100) for _ in range(height // 100)), packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def fill_bucket(endpoint: str, folder: Path, bucket: str = BUCKET) -> int:
    """Make the bucket and put every file of a folder into it; return how many."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=KEYS["AWS_DEFAULT_REGION"],
    )
    client.create_bucket(Bucket=bucket)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        client.put_object(Bucket=bucket, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
    return len(files)


def demo_spec(endpoint: str, bucket: str = BUCKET, scenes: int = 60) -> str:
    """The demo's spec, to be written beside its catalog folder."""
    failing = 6 * _ASKED_OF_AN_IMAGE
    ratio = failing / (failing + _ASKED_OF_AN_IMAGE * scenes) + 0.06  # the model has its failures too
    return f"""\
# What the demo runs. The S3 endpoint is gone when the demo ends; the catalog stays.
source: s3://{bucket}/**
catalog: catalog
store:
  endpoint_url: {endpoint}
policy:
  max_quarantine_ratio: {ratio:.2f}  # six objects are broken on purpose
enrichments:
  - capability: image captioning
    name: caption
  - capability: object detection
    name: objects
    media: image
  - capability: visual grounding
    name: stars
    phrases: [a red star, a blue circle]
  - capability: video captioning
    name: film
    model: qwen2-vl
  - capability: object tracking
    name: tracks
    model: florence-2
    sampling: {{fps: 4}}
models:
  qwen2-vl:
    id: {VIDEO_MODEL_FOLDER}
  florence-2:
    id: {MODEL_FOLDER}
"""
