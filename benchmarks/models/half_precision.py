"""How many rows differ between a batch and single calls, in single and in half precision, with the demo's weights.

    python -m benchmarks.models.half_precision --device cpu

In float32 on a CPU none may; in bfloat16 sums come out differently by the shape of the batch.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.infra.demo.bucket import MODEL_FOLDER, VIDEO_MODEL_FOLDER
from sightflow.infra.demo.moving_scenes import draw_clip, write_video
from sightflow.infra.demo.scenes import draw_scene
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, FrameSampling
from sightflow.schemas.media import DecodedImage, DecodedVideo
from sightflow.schemas.policy import Limits
from sightflow.schemas.vision import VisionRequest
from sightflow.tasks.media.read_video import read_frames, sampled
from sightflow.tasks.media.video_index import index_video

ROWS: Final = 30
BATCH: Final = 8
Precision = Literal["float32", "bfloat16"]


def images() -> list[VisionRequest]:
    """The objects of held-out scenes."""
    asked = Enrichment(capability=Capability.OBJECT_DETECTION)
    scenes = [draw_scene(seed) for seed in range(ROWS)]
    media = [DecodedImage(scene.image, *scene.image.size, f"{scene.seed:064d}") for scene in scenes]
    return [VisionRequest(f"file:///{m.sha256}", asked, m) for m in media]


def videos() -> list[VisionRequest]:
    """The captions of held-out films, as the flow reads them."""
    asked = Enrichment(capability=Capability.VIDEO_CAPTIONING)
    requests = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(ROWS):
            path = Path(scratch) / f"{seed}.mp4"
            write_video(draw_clip(seed), path)
            index = index_video(path, Limits())
            read = dict(read_frames(path, index, sampled(index, FrameSampling(frames=8))))
            seconds = tuple(index.seconds[list(read)].tolist())
            size = (index.width, index.height, index.duration, index.frame_rate)
            video = DecodedVideo(tuple(read.values()), tuple(read), seconds, *size, f"{seed:064d}")
            requests.append(VisionRequest(f"file:///{seed}", asked, video))
    return requests


def differing(model: OpenWeightsModel, requests: Sequence[VisionRequest]) -> int:
    """How many replies of batches are not word for word those of single calls."""
    together = [reply.raw_reply for reply in model.run(requests)]
    alone = [model.run([request])[0].raw_reply for request in requests]
    return sum(a != b for a, b in zip(together, alone, strict=True))


def main() -> None:
    """Print a line for each model and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = parser.parse_args().device
    systems = ((Florence2, MODEL_FOLDER, images()), (Qwen2VL, VIDEO_MODEL_FOLDER, videos()))
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for model_class, folder, requests in systems:
        for precision in precisions:
            model = model_class(id=str(folder), device=device, dtype=precision, batch_size=BATCH)
            count = differing(model, requests)
            print(f"{model.system:12} {precision:10} {count:3} of {len(requests)} differ, in batches of {BATCH}")


if __name__ == "__main__":
    main()
