"""sightflow models and sightflow route: which systems there are, what they can do, and which would be chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sightflow.infra.cli.screen import console, flag, safe, show_table
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.failure import ModelError, SpecError
from sightflow.schemas.money.rates import money

app = typer.Typer(invoke_without_command=True, help="The systems: ratings, what is installed here, pulling weights.")

_SHORT = {
    Capability.IMAGE_CAPTIONING: "caption",
    Capability.VISUAL_QUESTION_ANSWERING: "vqa",
    Capability.VISUAL_REASONING: "think",
    Capability.VISUAL_GROUNDING: "ground",
    Capability.OBJECT_DETECTION: "detect",
    Capability.SEGMENTATION: "mask",
    Capability.OBJECT_TRACKING: "track",
    Capability.VIDEO_CAPTIONING: "film",
}
_STAR = {0: "-", None: "?"}


@app.callback()
def models(context: typer.Context) -> None:
    """Show the comparison table (1 to 5; -: cannot; ?: unrated) and whether each system can be used here and now."""
    if context.invoked_subcommand is not None:
        return
    from sightflow.blocks.models.hosted_model import HostedModel
    from sightflow.blocks.models.outside_systems import outside_systems, package_of
    from sightflow.blocks.models.registry import open_model
    from sightflow.blocks.models.systems import SYSTEMS

    rows, notes = [], []
    for system in SYSTEMS:
        model = open_model(system)
        available = model.availability()
        stars = (_STAR.get(rating := model.rating.of(capability), str(rating)) for capability in _SHORT)
        rows.append((system, *stars, "yes" if available.usable else "no"))
        where = f"hosted by {model.vendor}" if isinstance(model, HostedModel) else "local"
        remedy = f"; {available.remedy}" if available.remedy else ""
        notes.append(f"{system}: {where}, {model.ref.id}, licence {model.ref.licence}; {available.why}{remedy}")
    for name, entries in outside_systems().items():  # told, and not imported
        packages = ", ".join(map(package_of, entries))
        shadowed = "not used: it has the name of a system of ours" if name in SYSTEMS else "used where a spec names it"
        notes.append(f"{name}: of {packages}; {shadowed}")
    show_table("", "system", *_SHORT.values(), "here", rows=rows)
    for note in notes:
        console.print(safe(note), soft_wrap=True)
    console.print("next: [bold]sightflow route --capability caption[/bold] explains a choice")


@app.command()
def pull(
    system: Annotated[str, typer.Argument(help="A local system, e.g. florence-2.")],
    id: Annotated[str | None, typer.Option(help="Another hub id of the same family.")] = None,
    revision: Annotated[str | None, typer.Option(help="A commit or tag to pin.")] = None,
    spec: Annotated[Path | None, typer.Option(help="A spec whose `models` has an entry of this name.")] = None,
) -> None:
    """Download the weights of a local system (safetensors only); files that arrived stay if it breaks off."""
    from sightflow.blocks.models.open_weights_model import OpenWeightsModel

    model = _opened(system, {"id": id, "revision": revision}, spec)
    if not isinstance(model, OpenWeightsModel):
        raise SpecError(f"{system} is hosted: there is nothing to pull; check it with: sightflow models check {system}")
    console.print(f"pulling {safe(model.ref.id)} at {safe(model.ref.revision)}; licence {safe(model.ref.licence)}")
    console.print(f"the weights are in [bold]{safe(model.pull())}[/bold]", soft_wrap=True)


@app.command()
def check(
    system: Annotated[str, typer.Argument(help="A system, e.g. gpt-4o.")],
    id: Annotated[str | None, typer.Option(help="Another model id of the same family.")] = None,
    spec: Annotated[Path | None, typer.Option(help="A spec whose `models` has an entry of this name.")] = None,
) -> None:
    """Send one small real request (a red square: what colour is it?) and show the answer and what it cost."""
    from PIL import Image

    from sightflow.schemas.enrichment import Enrichment, TextResult
    from sightflow.schemas.failure import Failure
    from sightflow.schemas.media import DecodedImage
    from sightflow.schemas.vision import VisionRequest

    model = _opened(system, {"id": id}, spec)
    available = model.availability()
    if not available.usable:
        raise ModelError(f"{system}: {available.why}; {available.remedy}")
    image = DecodedImage(Image.new("RGB", (64, 64), (215, 40, 40)), 64, 64, "0" * 64)
    asked = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="What colour is this square?")
    with console.status(f"asking {system} ..."):
        model.prepare()
        (reply,) = model.run([VisionRequest("file:///check.png", asked, image)])
    if isinstance(reply.outcome, Failure):
        raise ModelError(f"{system} ({reply.model_id}) answered with {reply.outcome.cause}: {reply.outcome.message}")
    assert isinstance(reply.outcome, TextResult)
    tokens = f"{reply.usage.input_tokens} tokens in, {reply.usage.output_tokens} out, {money(reply.usage.cost_usd)}"
    console.print(f"{system} ({safe(reply.model_id)}) says: {safe(reply.outcome.text)}; {tokens}")


def _opened(name: str, changes: dict[str, Any], spec: Path | None) -> Any:
    """The model of this name, as a spec configures it if one is given, with what the command line changes."""
    from sightflow.blocks.models.registry import open_model
    from sightflow.schemas.spec import ModelEntry
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.route import check_models

    entry = ModelEntry(name, {}) if spec is None else check_models(read_spec(spec)).model_entry(name)
    given = {setting: value for setting, value in changes.items() if value}
    return open_model(name, entry.settings | given, entry.may_name_code)


def route(
    capability: Annotated[str, typer.Option(help="E.g. caption, vqa, detection, grounding, tracking.")],
    media_kind: Annotated[
        MediaKind | None, typer.Option(help="image or video; unset, what the capability takes.")
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="Take policy and model settings from a spec.")] = None,
    language: Annotated[str | None, typer.Option(help="ISO 639 code that answers are wanted in, e.g. zh.")] = None,
    hosted: Annotated[bool, flag("--hosted", help="Allow hosted systems, as policy.hosted: allow.")] = False,
) -> None:
    """Explain which system would serve a capability here: the ranking, line by line, and why others are not taken."""
    from sightflow.schemas.enrichment import Enrichment
    from sightflow.schemas.policy import Policy
    from sightflow.schemas.spec import EnrichmentSpec
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.route import check_models
    from sightflow.tasks.route import route as ranked

    try:
        wanted = next((c for c, short in _SHORT.items() if short == capability), None) or Capability(capability)
    except ValueError:
        raise SpecError(f"{capability!r} is not a capability; allowed: {', '.join(Capability)}") from None
    filler: dict[str, Any] = {"question": "?"} if wanted.gives_text and "caption" not in wanted else {}
    if wanted is Capability.VISUAL_GROUNDING:
        filler = {"phrases": ("it",)}
    elif wanted is Capability.SEGMENTATION:
        filler = {"labels": ("it",)}
    if language and wanted.gives_text:
        filler["language"] = language
    asked = Enrichment(capability=wanted, **filler)
    if spec is not None:
        read = check_models(read_spec(spec))
        if hosted:
            read = read.model_copy(update={"policy": read.policy.model_copy(update={"hosted": "allow"})})
    else:
        policy = Policy(hosted="allow" if hosted else "deny")
        read = EnrichmentSpec(source=("file:///",), catalog="file:///catalog", enrichments=(asked,), policy=policy)
    for kind in sorted(wanted.media_kinds) if media_kind is None else [media_kind]:
        if kind not in wanted.media_kinds:
            raise SpecError(f"{wanted} cannot be asked of {kind}")
        candidates = ranked(asked, kind, read).candidates
        rows = [
            (
                place if c.usable else "-",
                c.system,
                c.rating,
                "hosted" if c.hosted else "local",
                money(c.price_per_item),
                c.why,
            )
            for place, c in enumerate(candidates, 1)
        ]
        show_table(f"{wanted} of {kind}", "", "system", "rating", "where", "an item", "why", rows=rows)
