"""Models under names of the user's own, and classes that are not part of this package: found, refused, blamed."""

import importlib
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightflow.blocks.models.outside_systems import outside_systems
from sightflow.blocks.models.own_detector import Detection, OwnDetector
from sightflow.blocks.models.registry import open_model, system_class
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, TracksResult
from sightflow.schemas.failure import Cause, SpecError
from sightflow.schemas.masks import decode_mask, encode_mask
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.rating import Rating, unrated
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.route import check_models, resolve_enrichments
from tests import outside_package
from tests.tiny_models.families import noisy_video, request

DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("spot",))
CODE = "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`installed(name, entry_points, code)`: a package of one module, on the path of this process."""
    monkeypatch.syspath_prepend(str(outside_package.HERE))
    added: list[str] = ["sightflow_spots"]

    def install(name: str, systems: str, code: str) -> None:
        facts = tmp_path / name / f"{name}-0.1.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        (facts / "entry_points.txt").write_text(f"[sightflow.systems]\n{systems}\n")
        (tmp_path / name / f"{name}.py").write_text(CODE + code)
        monkeypatch.syspath_prepend(str(tmp_path / name))
        added.append(name)
        forget()

    def forget() -> None:
        importlib.invalidate_caches()
        outside_systems.cache_clear()
        system_class.cache_clear()

    forget()
    yield install
    for name in added:
        sys.modules.pop(name, None)
    monkeypatch.undo()
    forget()


def spec_file(folder: Path, models: str, model: str = "mine") -> Path:
    path = folder / "spec.yaml"
    asked = f"[{{capability: object detection, labels: [spot], model: {model}}}]"
    path.write_text(f"source: media\ncatalog: catalog\nenrichments: {asked}\nmodels:\n  {models}\n")
    return path


@pytest.mark.usefixtures("installed")
def test_a_class_is_taken_from_a_file_and_not_from_what_is_stored(tmp_path: Path) -> None:
    read = check_models(read_spec(spec_file(tmp_path, "mine: {class: 'sightflow_spots:Spots', level: 90}")))
    ((resolved, _),) = [each for each in resolve_enrichments(read) if each.resolved.media_kind is MediaKind.IMAGE]
    assert resolved.systems == ("mine",)
    sent: EnrichmentSpec = pickle.loads(pickle.dumps(read))  # to a worker of this run
    assert open_model(*sent.model_entry("mine")).name_in_spec == "mine"
    stored = EnrichmentSpec.model_validate_json(read.model_dump_json())
    assert stored == read, "a spec says the same, wherever it was read"
    with pytest.raises(SpecError, match=r"models.mine.class: is taken only from a spec file.*`sightflow.systems`"):
        check_models(stored)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("models", "says"),
    [
        ("mine: {id: x}", "is not a system; .*a name of your own says which it is: mine: {system: ...}"),
        ("mine: {system: detectr}", "models.mine.system: 'detectr' is not a system; did you mean detector"),
        ("mine: {system: spots, level: 300}", "models.mine.level: Input should be less than or equal to 255"),
        ("mine: {system: spots, levl: 3}", "models.mine.levl: there is no such setting; did you mean level"),
        ("mine: {system: [spots]}", "models.mine.system: is a text"),
        ("mine: {system: spots, class: 'a:B'}", "models.mine.class: goes without `system`"),
        ("florence-2: {system: spots}", "models.florence-2.system: florence-2 is itself a system"),
        ("florence-2: {class: 'sightflow_spots:Spots'}", "models.florence-2.class: florence-2 is itself a system"),
        ("'My Model': {system: spots}", "models.My Model: a name has small letters"),
        ("mine: {class: 'os:system'}", "os:system is not a class derived from VisionModel"),
        ("mine: {class: 'os.path'}", "names no class; write package.module:Class"),
        ("mine: {class: 'no_such_package:Model'}", "cannot be imported: ModuleNotFoundError"),
        ("mine: {class: 'sightflow.blocks.models.own_detector:OwnDetector'}", "lacks detect"),
    ],
)
def test_what_is_not_said_right_is_refused_with_what_to_write(tmp_path: Path, models: str, says: str) -> None:
    read = read_spec(spec_file(tmp_path, models, model="spots"))
    with pytest.raises(SpecError, match=says):
        check_models(read)


@pytest.mark.usefixtures("installed")
def test_one_system_goes_by_several_names(tmp_path: Path) -> None:
    models = "dark: {system: spots, level: 20}\n  light: {system: spots, level: 200}"
    read = check_models(read_spec(spec_file(tmp_path, models, model="dark")))
    recipes = [open_model(*read.model_entry(name)).recipe(DETECT, MediaKind.IMAGE) for name in ("dark", "light")]
    assert recipes[0] != recipes[1]
    with pytest.raises(SpecError, match=r"'drak' is not a system; .*or one of your `models`: dark, light"):
        check_models(read_spec(spec_file(tmp_path, models, model="drak")))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError"),
        ("", "has no attribute 'Model'"),
        ("Model = 7", "is not a class derived from VisionModel"),
        ("from sightflow.blocks.models.vision_model import VisionModel as Model", "lacks parse, prompts"),
    ],
)
def test_a_package_that_is_broken_is_named(installed: Any, tmp_path: Path, code: str, says: str) -> None:
    installed("broken", "broken = broken:Model", code)
    with pytest.raises(SpecError, match=rf"the system 'broken' of broken 0.1: broken:Model.*{says}"):
        check_models(read_spec(spec_file(tmp_path, "mine: {system: broken}")))


def test_the_one_in_the_docs_works(installed: Any) -> None:
    page = (outside_package.ROOT / "docs" / "own-system.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) <= 40
    installed("documented", "documented = documented:Spots", code)
    image = Image.new("RGB", (20, 10), "white")
    image.paste("black", (4, 2, 8, 6))
    (reply,) = open_model("documented").run([request(DETECT, DecodedImage(image, 20, 10, "0" * 64))])
    assert isinstance(reply.outcome, RegionsResult)
    (region,) = reply.outcome.regions
    assert (region.label, region.box.x_max) == ("spot", pytest.approx(8))


def test_nothing_is_imported_that_nobody_named_and_ours_keep_their_names(installed: Any, tmp_path: Path) -> None:
    installed("greedy", "florence-2 = greedy:Model\nother = greedy:Model", "")
    installed("second", "other = second:Model", "")
    assert system_class("florence-2").__module__.startswith("sightflow.")
    caption = Enrichment(capability=Capability.IMAGE_CAPTIONING)
    spec = EnrichmentSpec(source="media", catalog="catalog", enrichments=(caption,))
    with pytest.raises(SpecError, match="no system can serve it here"):  # no weights are here
        resolve_enrichments(spec)
    assert not list(tmp_path.glob("*/imported"))
    with pytest.raises(SpecError, match=r"'other' is a system of .*greedy 0\.1.*; uninstall all but one"):
        system_class("other")


class Faulty(OwnDetector):
    """Fails as its setting says."""

    rating = system_class("detector").rating
    default = system_class("detector").default
    how: str = ""

    def detect(self, images: Any, labels: Any) -> Any:
        if any(map(_is_red, images)):
            match self.how:
                case "raises":
                    raise RuntimeError("no red")
                case "few":
                    return []
                case "outside":
                    return [[Detection("spot", (0, 0, 40 if _is_red(image) else 4, 4), 0.5)] for image in images]
                case "garbage":
                    return [[Detection("spot", ("a", 0, 4, 4), 0.5)] for _ in images]  # type: ignore[arg-type]
        return [[Detection(label, (1, 1, 4, 4), 0.5) for label in labels] for _ in images]


def _is_red(image: Image.Image) -> bool:
    return image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("how", ["raises", "few", "outside", "garbage"])
def test_what_one_image_does_to_it_costs_no_other(how: str) -> None:
    model = Faulty(how=how)
    colours = ("white", "red", "black", "white")
    images = [DecodedImage(Image.new("RGB", (8, 8), colour), 8, 8, "0" * 64) for colour in colours]
    replies = model.run([request(DETECT, image, f"s3://b/{k}") for k, image in enumerate(images)])
    expected = Cause.MALFORMED if how == "outside" else Cause.MODEL
    assert [reply.failure and reply.failure.cause for reply in replies] == [None, expected, None, None]
    assert isinstance(replies[0].outcome, RegionsResult) and replies[0].outcome.regions[0].label == "spot"


def test_tracks_and_labels_in_pixels_of_the_original_are_inherited() -> None:
    track = Enrichment(capability=Capability.OBJECT_TRACKING, labels=("spot",))
    (reply,) = Faulty().run([request(track, noisy_video(5))])
    assert isinstance(reply.outcome, TracksResult)
    assert [len(each.points) for each in reply.outcome.tracks] == [5]
    half = DecodedImage(Image.new("RGB", (8, 8)), 16, 16, "0" * 64)  # decoded at half its size
    (reply,) = Faulty().run([request(DETECT, half)])
    assert isinstance(reply.outcome, RegionsResult)
    assert reply.outcome.regions[0].box.x_max == pytest.approx(8)


class Cutter(OwnDetector):
    """Cuts out a square, in pixels of the image that it is given."""

    rating = Rating(
        system="cutter",
        capabilities=unrated(Capability.OBJECT_DETECTION, Capability.SEGMENTATION, Capability.OBJECT_TRACKING),
        deployment="easy",
        getting_started="fast",
        weights="open",
        strength="exact",
    )
    default = system_class("detector").default

    def detect(self, images: Any, labels: Any) -> Any:
        found = []
        for image in images:
            mask = np.zeros((image.height, image.width), dtype=bool)
            mask[2:6, 1:5] = True
            found.append([Detection(label, (1, 2, 5, 6), 0.5, encode_mask(mask)) for label in labels])
        return found


@pytest.mark.parametrize("larger", [1, 3])
def test_masks_of_images_and_tracks_are_of_the_size_of_the_original(larger: int) -> None:
    small = noisy_video(4)
    width, height = larger * small.width, larger * small.height
    video = replace(small, width=width, height=height)
    wanted = np.zeros((height, width), dtype=bool)
    wanted[2 * larger : 6 * larger, larger : 5 * larger] = True
    track = Enrichment(capability=Capability.OBJECT_TRACKING, labels=("square",), masks=True)
    (reply,) = Cutter().run([request(track, video)])
    assert isinstance(reply.outcome, TracksResult)
    (found,) = reply.outcome.tracks
    cut = Enrichment(capability=Capability.SEGMENTATION, labels=("square",))
    (reply,) = Cutter().run([request(cut, DecodedImage(small.frames[0], width, height, "0" * 64))])
    assert isinstance(reply.outcome, RegionsResult)
    for mask in [point.mask for point in found.points] + [reply.outcome.regions[0].mask]:
        different = decode_mask(mask or "", width, height) != wanted
        assert different.sum() <= 4 * (larger - 1), "corners alone are rounded"
    (reply,) = Cutter().run([request(track.model_copy(update={"masks": False}), video)])
    assert isinstance(reply.outcome, TracksResult)
    assert {point.mask for each in reply.outcome.tracks for point in each.points} == {None}
