"""sightflow gallery: look at a catalog in a browser, or leave it as a folder of files."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightflow.infra.cli.catalog import Endpoint, Uri, find_catalog
from sightflow.infra.cli.screen import console, safe
from sightflow.schemas.failure import SpecError

if TYPE_CHECKING:
    from sightflow.blocks.catalog.catalog import Catalog
    from sightflow.blocks.store.media_places import MediaPlaces
    from sightflow.infra.gallery.static_site import Written
    from sightflow.schemas.policy import Limits

Port = Annotated[int, typer.Option(min=0, max=65535, help="The port on loopback; 0: a free one.")]
_SECONDS = 300
MediaFrom = Annotated[
    list[str] | None,
    typer.Option(
        "--media-from",
        metavar="URI",
        help="A host of the web, or a folder, from which media are read because you say so; may be repeated.",
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Open the browser too.")]


def gallery(
    uri: Uri,
    port: Port = 0,
    open_browser: Open = False,
    out: Annotated[Path | None, typer.Option(help="Write a folder of files instead of serving.")] = None,
    where: Annotated[
        str | None, typer.Option(help="With --out: a condition on the view `catalog` in SQL; unset, every object.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="With --out: the most objects.")] = 1000,
    media_from: MediaFrom = None,
    endpoint_url: Endpoint = None,
) -> None:
    """Show a catalog in the browser: every object with all that was said about it drawn on it.

    It listens on loopback and lets in who has the address, with its secret; media are read with your own keys. With
    --out the same pages are files, which need no server and ask nobody for anything.
    """
    catalog = find_catalog(uri, endpoint_url)
    if out is not None:
        done = write(catalog, out, where, limit, _limits(uri), media_places(uri, catalog, media_from))
        missing = f", {done.without_picture:,} of them without a picture" if done.without_picture else ""
        console.print(f"{done.objects:,} objects{missing}: open [bold]{safe(done.index)}[/bold]", soft_wrap=True)
        return
    if where is not None:
        raise SpecError("--where goes with --out; in the browser the page SQL takes any query")
    from sightflow.infra.gallery.app import Gallery
    from sightflow.infra.gallery.media.media import Media
    from sightflow.infra.gallery.search.index import CatalogIndex

    media = Media(catalog.store, catalog.uri, _limits(uri), places=media_places(uri, catalog, media_from))
    index = CatalogIndex(catalog)
    try:  # nothing may end the process while the index is read beside it
        index.follow(patience=0)
        pages = Gallery(catalog, media, index, (uri, endpoint_url))
        show(pages, port, open_browser, [])
    finally:
        index.close()


def _limits(uri: str) -> Limits:
    """The bounds of media: those of a spec, where a catalog is named by one."""
    from sightflow.schemas.policy import Limits
    from sightflow.schemas.spec_reader import is_spec_file, read_spec

    return read_spec(uri).policy.limits if is_spec_file(uri) else Limits()


def media_places(uri: str, catalog: Catalog, media_from: Sequence[str] | None = None) -> MediaPlaces:
    """From where the media of a catalog are read: confirmed by the spec, where it is named by one, and by the user."""
    from sightflow.blocks.store.media_places import MediaPlaces
    from sightflow.schemas.spec_reader import is_spec_file, read_spec

    source = read_spec(uri).source if is_spec_file(uri) else ()
    return MediaPlaces.of(catalog.uri, source, media_from or ())


def write(
    catalog: Catalog,
    folder: Path,
    where: str | None = None,
    limit: int = 1000,
    limits: Limits | None = None,
    places: MediaPlaces | None = None,
) -> Written:
    """Write a gallery into a folder, with a line that tells how far it is."""
    from sightflow.infra.gallery.media.media import Media
    from sightflow.infra.gallery.search.filters import Filter
    from sightflow.infra.gallery.search.index import CatalogIndex
    from sightflow.infra.gallery.static_site import write_gallery

    index = CatalogIndex(catalog)
    try:
        with console.status("reading the catalog ...") as status:
            index.read_all()
            uris = index.page(Filter(), 0, limit) if where is None else _chosen(catalog, where, limit)
            return write_gallery(
                catalog,
                Media(catalog.store, catalog.uri, limits, places=places),
                index,
                uris,
                folder,
                lambda done: status.update(f"{done:,} of {len(uris):,} objects are written ..."),
            )
    finally:
        index.close()


def _chosen(catalog: Catalog, where: str, limit: int) -> list[str]:
    """The objects that a condition in SQL holds for. Raises SpecError if it is none."""
    import duckdb

    from sightflow.blocks.catalog.sql_views import connect
    from sightflow.infra.cli.query import Query

    sql = f"SELECT uri FROM catalog WHERE ({where}\n) ORDER BY uri LIMIT {limit:d}"  # noqa: S608, in a sandbox
    try:
        return [uri for (uri,) in Query(connect(catalog), sql, _SECONDS).rows()]
    except duckdb.Error as error:
        raise SpecError(f"--where is not understood: {catalog.store.redact(str(error))}") from None


def show(pages: Any, port: int, open_browser: bool, more: list[Any], first: str = "") -> None:
    """Serve pages until interrupted. `first`: the page to begin with."""
    from sightflow.infra.gallery.access import new_secret
    from sightflow.infra.gallery.server import address, listen, serve

    listener, secret = listen(port), new_secret()
    where = address(listener, secret) + first

    def ready() -> None:
        console.print(f"{safe(pages.catalog.uri)} is at", soft_wrap=True)
        print(where, flush=True)  # as it is: the console would take the secret out
        console.print("Who has this address can look at the catalog and its media; Ctrl+C ends it.", soft_wrap=True)
        if open_browser:
            webbrowser.open(opener.as_uri())

    with TemporaryDirectory(prefix="sightflow-open-") as folder:  # nobody else may look into it
        # Other users of this machine see what a browser is started with: it is told of a file that only this one reads.
        opener = Path(folder) / "gallery.html"
        if open_browser:
            opener.write_text(
                f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={where}"><a href="{where}">Go</a>'
            )
        serve(pages.application(secret, more), listener, ready)


def review(
    spec: Annotated[Path, typer.Argument(help="The spec file.")],
    by: Annotated[str | None, typer.Option(help="Whose word it is; unset, the user of this machine.")] = None,
    port: Port = 0,
    open_browser: Open = False,
) -> None:
    """Accept or correct what was said, by keyboard: the labels, beside the catalog, that models are measured on.

    The gallery with hands. Each label is saved as it is told, and of two people who save the same the second is shown
    both.
    """
    import getpass

    from sightflow.blocks.catalog.labels import Labels
    from sightflow.infra.gallery.app import Gallery
    from sightflow.infra.gallery.media.media import Media
    from sightflow.infra.gallery.review.review import Review
    from sightflow.infra.gallery.search.index import CatalogIndex
    from sightflow.schemas.spec_reader import read_spec

    read = read_spec(spec)
    catalog = find_catalog(str(spec), None)
    media = Media(catalog.store, catalog.uri, read.policy.limits, places=media_places(str(spec), catalog))
    usable, changed = Labels(catalog).usable()
    console.print(f"{usable.height:,} results are labelled")
    if changed.height:
        console.print(
            f"{changed.height:,} labels are of objects that have changed or are gone since: they are kept, not used"
        )
    index = CatalogIndex(catalog)
    try:
        index.follow(patience=0)
        pages = Gallery(catalog, media, index, (str(spec), None))
        show(pages, port, open_browser, Review(pages, read.enrichments, by or getpass.getuser()).routes, "review")
    finally:
        index.close()
