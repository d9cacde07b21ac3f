"""How one image goes through the code: files that are entered, and switches between files, from the flow's call to its
row. A reader who follows it opens so many files, and changes between them so often.

    python -m benchmarks.call_trace            # the demo's Florence-2 captions one drawn scene
    python -m benchmarks.call_trace --list     # and the files, in the order in which they are entered

Counted are calls of functions that are defined in the project's own folders, in every thread; imports are left out, for
each trace is the second of its process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.update(PREFECT_SERVER_ANALYTICS_ENABLED="false", PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL")

ROOT = Path(__file__).parents[1].resolve()
FOLDERS = ("schemas", "blocks", "tasks", "flows", "infra")


class Trace:
    """Calls within the block, by thread."""

    def __init__(self) -> None:
        self.calls: dict[int, list[str]] = {}
        self._names: dict[str, str | None] = {}

    def __enter__(self) -> Trace:
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    def _see(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not frame.f_code.co_name.startswith("<"):
            name = self._name(frame.f_code.co_filename)
            if name is not None:
                self.calls.setdefault(threading.get_ident(), []).append(name)

    def _name(self, path: str) -> str | None:
        if path not in self._names:
            real = Path(path).resolve()
            inside = real.is_relative_to(ROOT) and real.relative_to(ROOT).parts[0] in FOLDERS
            self._names[path] = real.relative_to(ROOT).as_posix() if inside else None
        return self._names[path]

    @property
    def files(self) -> list[str]:
        """The files that were entered, in that order."""
        return list(dict.fromkeys(name for calls in self.calls.values() for name in calls))

    @property
    def switches(self) -> int:
        """How often a thread's next call was into another file."""
        return sum(a != b for calls in self.calls.values() for a, b in pairwise(calls))


def traced(work: Callable[[], object]) -> Trace:
    """What happens in `work`, the second time that it is done."""
    work()
    with Trace() as trace:
        work()
    return trace


def main() -> None:
    """Trace and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="the files too")
    given = parser.parse_args()
    from sightflow.blocks.models.registry import open_model
    from sightflow.flows.enrich import enrich
    from sightflow.infra.demo.bucket import MODEL_FOLDER
    from sightflow.infra.demo.scenes import draw_scene
    from sightflow.infra.prefect_server import prefect_api
    from sightflow.schemas.enrichment import Enrichment
    from sightflow.schemas.media import DecodedImage
    from sightflow.schemas.spec import EnrichmentSpec
    from sightflow.schemas.vision import VisionRequest

    caption = Enrichment(capability="image_captioning", name="caption", model="florence-2")  # type: ignore[arg-type]
    settings: dict[str, Any] = {"id": str(MODEL_FOLDER), "device": "cpu"}
    scene = draw_scene(7).image
    with tempfile.TemporaryDirectory() as folder, prefect_api() as server:
        scene.save(Path(folder) / "scene.png")
        number = iter(range(9))

        def flow() -> None:
            catalog = f"file://{folder}/catalog-{next(number)}"
            source = (f"file://{folder}/*.png",)
            enrich(
                EnrichmentSpec(source=source, catalog=catalog, enrichments=(caption,), models={"florence-2": settings})
            )

        if server is not None:
            server.wait()
        whole = traced(flow)
        model = open_model("florence-2", settings)
        request = VisionRequest("file:///scene.png", caption, DecodedImage(scene, *scene.size, "0" * 64))
        run = traced(lambda: model.run([request]))
    for what, trace in (("the flow's call to the row", whole), ("one model.run", run)):
        print(f"{what}: {len(trace.files)} files, {trace.switches} switches")
        if given.list:
            print("\n".join(f"  {name}" for name in trace.files))


if __name__ == "__main__":
    main()
