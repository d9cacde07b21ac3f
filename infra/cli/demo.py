"""sightflow demo: the whole job on this machine, with a real model and an S3 endpoint on loopback."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
import typer

from sightflow.blocks.extras import require
from sightflow.infra.cli.catalog import open_cases
from sightflow.infra.cli.run import progress, show_report
from sightflow.infra.cli.screen import console, safe, show_next, show_table
from sightflow.schemas.failure import SpecError

if TYPE_CHECKING:
    from sightflow.infra.server_process import PrefectServer
    from sightflow.schemas.run.report import RunReport
    from sightflow.schemas.spec import EnrichmentSpec

_MARK = "made-by-sightflow-demo"


def demo(
    folder: Annotated[Path, typer.Option(help="Everything the demo makes lies here.")] = Path("demo-output"),
    scenes: Annotated[int, typer.Option(min=1, max=2000, help="How many pictures are drawn.")] = 60,
    videos: Annotated[int, typer.Option(min=1, max=500, help="How many short films are drawn.")] = 4,
) -> None:
    """Draw pictures and films, put them in S3, caption them, detect, ground and track in them with real models,
    publish.
    """
    require("moto", "demo", "sightflow demo, for its S3 on loopback,")
    require("transformers", "demo", "sightflow demo")
    from sightflow.infra.cli.gallery import write
    from sightflow.infra.demo.bucket import KEYS, demo_spec, draw_media, fill_bucket, s3_on_loopback
    from sightflow.infra.prefect_server import prefect_api
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.open import open_catalog

    folder = _fresh(folder)
    os.environ.update(KEYS)
    with prefect_api() as prefect, s3_on_loopback() as endpoint:
        with console.status("drawing pictures and films and putting them into S3 on loopback ..."):
            draw_media(folder / "bucket", scenes, videos)
            count = fill_bucket(endpoint, folder / "bucket")
        spec = folder / "spec.yaml"
        spec.write_text(demo_spec(endpoint, scenes=scenes))
        console.print(f"[bold]1.[/bold] {count} objects, six of them broken, are in S3 at {endpoint} (this process)")
        console.print(
            "[bold]2.[/bold] a small Florence-2 and a small Qwen2-VL, trained for this demo on drawn shapes and on "
            "nothing else, look at them"
        )
        read = read_spec(spec)
        show_report(_run(prefect, read))
        _show_what_came(read.catalog, folder)
        console.print("\n[bold]3.[/bold] the same again: only what is missing is computed")
        show_report(_run(prefect, read))
        pages = write(open_catalog(read), folder / "gallery")  # while the S3 endpoint is there to be read
    console.print(
        f"\neverything lies in [bold]{safe(folder)}[/bold]: the bucket's files, truth.json, spec.yaml, catalog/, "
        "gallery/",
        soft_wrap=True,
    )
    console.print(f"look at it: open [bold]{safe(pages.index)}[/bold] in a browser", soft_wrap=True)
    query = "SELECT uri, caption, objects FROM catalog LIMIT 5"
    show_next("sightflow", "catalog", "query", folder / "catalog", query)


def _run(server: PrefectServer | None, spec: EnrichmentSpec) -> RunReport:
    from sightflow.infra.local_run import enrich_on

    with progress() as bar:
        return enrich_on(server, spec, watcher=bar)


def _fresh(folder: Path) -> Path:
    """An empty folder for this demo; what an earlier demo made is removed, anything else is left alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise SpecError(f"{folder} holds files that are not the demo's; choose another with --folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    return folder


def _show_what_came(catalog_uri: str, folder: Path) -> None:
    """Print some rows, the failures with their causes, and how much of it is true."""
    from sightflow.blocks.catalog.catalog import Catalog
    from sightflow.blocks.catalog.sql_views import connect

    catalog = Catalog(uri=catalog_uri)
    views = connect(catalog)
    rows = views.execute(
        "SELECT parse_filename(uri), caption, list_transform(objects, lambda o: o.label || "
        "printf(' [%.0f %.0f %.0f %.0f]', o.x_min, o.y_min, o.x_max, o.y_max)) "
        "FROM catalog WHERE caption IS NOT NULL ORDER BY uri LIMIT 4"
    )
    shown = [(name, caption, "; ".join(boxes or [])) for name, caption, boxes in rows.fetchall()]
    show_table("published, for example", "object", "caption", "objects (pixels)", rows=shown)
    videos = views.execute(
        "SELECT parse_filename(uri), film, list_transform(tracks, lambda t: t.label || printf(' x %.0f to %.0f', "
        "t.points[1].x_min, t.points[-1].x_min)) FROM catalog WHERE film IS NOT NULL ORDER BY uri LIMIT 4"
    )
    moved = [(name, caption, "; ".join(tracks or [])) for name, caption, tracks in videos.fetchall()]
    show_table("", "film", "caption", "tracks (left edge, first to last)", rows=moved)
    cases = open_cases(catalog).group_by("uri", "cause", "message").len("items").sort("uri", "cause")
    failed = [(uri.rpartition("/")[2], cause, n, message) for uri, cause, message, n in cases.iter_rows()]
    show_table("quarantined, and why", "object", "cause", "items", "what went wrong", rows=failed)
    truth = json.loads((folder / "truth.json").read_text())
    said = dict(
        catalog.scan("enrichments")
        .filter(pl.col("enrichment").is_in(["caption", "film"]))
        .select("uri", "text")
        .collect()
        .iter_rows()
    )
    right = sum(text == truth[uri.split("/", 3)[3]]["caption"] for uri, text in said.items())
    console.print(f"{right} of {len(said)} published captions are word for word the truth of the drawing")
