"""SAM 2 and SAM 3 on whole videos: transformers' own classes follow each object from frame to frame.

A frame is made ready when the model comes to it, and what no later frame needs is let go: of a video only some frames
are in memory as numbers, however long it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from sightflow.blocks.models.contract import BatchGenerator, Generated, GenerationRequest, LoadedWeights, ReplyError
from sightflow.blocks.models.detection.masks import (
    Least,
    at_size,
    box_of,
    encoded_texts,
    in_pixels,
    logit,
    refuse_what_is_no_number,
)
from sightflow.blocks.models.region_finder import RegionFinder
from sightflow.blocks.models.replies.detections import Detection, read_detections, write_detections
from sightflow.blocks.models.video.tracking import numbered
from sightflow.blocks.models.video.tracklets import overlaps
from sightflow.schemas.enrichment import Track, TrackPoint, TracksResult
from sightflow.schemas.geometry import BoxFormat, ImageTransform
from sightflow.schemas.masks import Bitmap, encode_mask, enlarged
from sightflow.schemas.media import DecodedVideo

_LEAST_PAIRED: Final = 0.1
"""Intersection over union from which a box may be that of an object which is followed, as SAM 3 has it."""
_SAME_PLACE: Final = 0.5
"""Intersection over union from which a box shows an object which is followed, though another box is paired with it."""


class Tracker(Protocol):
    """Follows objects through one video."""

    def encode(self, each: GenerationRequest) -> Any:
        """What the tokenizer makes of the prompt; called in one thread at a time."""

    def follow(self, each: GenerationRequest, encoded: Any) -> list[Detection]:
        """Every object in every frame in which it is seen: `box` in fractions, with `frame` and `track`."""


@dataclass(frozen=True)
class Inputs:
    """What was made of a batch: of its images by their generator, of each video by the tracker."""

    images: Any
    videos: list[Any]


class TrackingGenerator:
    """Weights for videos: images are answered as by the weights for images, a whole video by following objects."""

    def __init__(self, weights: LoadedWeights, images: BatchGenerator, tracker: Tracker) -> None:
        self.weights, self._images, self._tracker = weights, images, tracker

    def preprocess(self, batch: Sequence[GenerationRequest]) -> Inputs:
        images, videos = _apart(batch)
        made = self._images.preprocess(images) if images else None
        return Inputs(made, [self._tracker.encode(each) for each in videos])

    def generate(self, batch: Sequence[GenerationRequest], inputs: Inputs) -> list[Generated]:
        images, videos = _apart(batch)
        of_images = iter(self._images.generate(images, inputs.images) if images else ())
        followed = (self._tracker.follow(*each) for each in zip(videos, inputs.videos, strict=True))
        return [Generated(write_detections(next(followed))) if _is_video(each) else next(of_images) for each in batch]


class Sam2Tracker:
    """SAM 2, which is shown where objects are: the prompt is the boxes of another model in each frame.

    A box that shows no object which is followed yet begins one. Those that begin in one frame are followed together,
    and apart from those of other frames: whatever appears later changes nothing for those before it.
    """

    def __init__(self, weights: LoadedWeights, least: Least) -> None:
        self.weights, self._least = weights, least

    def encode(self, each: GenerationRequest) -> None:
        return None

    def follow(self, each: GenerationRequest, encoded: None) -> list[Detection]:
        frames = SampledFrames(_video_of(each), self.weights)
        asked = read_detections(each.prompt.text)
        found: list[Detection] = []
        begun: list[Detection] = []  # the box with which each object begins
        with ExitStack() as opened:
            sessions: list[Any] = []
            for place in range(len(frames)):
                seen = [point for session in sessions for point in self._seen(each, session, place, begun, frames)]
                boxes = [box for box in asked if box.frame == place + 1]
                new = not_followed(boxes, seen)
                if new:
                    session = opened.enter_context(inference_session(self.weights, frames))
                    if sessions:
                        session.cache = sessions[0].cache  # the features of a frame are computed once
                    sessions.append(session)
                    self._show(session, place, new, frames, first=len(begun))
                    begun += new
                    seen += self._seen(each, session, place, begun, frames)
                found += seen
        return found

    def _show(self, session: Any, place: int, boxes: Sequence[Detection], frames: SampledFrames, first: int) -> None:
        corners = [[in_pixels(each.box, frames.width, frames.height) for each in boxes]]
        numbers = list(range(first, first + len(boxes)))
        self.weights.processor.add_inputs_to_inference_session(
            session, frame_idx=place, obj_ids=numbers, input_boxes=corners
        )

    def _seen(
        self, each: GenerationRequest, session: Any, place: int, begun: Sequence[Detection], frames: SampledFrames
    ) -> Iterator[Detection]:
        """The objects of a session in a frame; one whose mask has no pixel there is not seen."""
        outputs = self.weights.model(inference_session=session, frame_idx=place)
        refuse_what_is_no_number(outputs.pred_masks, outputs.object_score_logits)
        scores = outputs.object_score_logits.float().sigmoid().flatten().tolist()
        for number, mask, score in zip(outputs.object_ids, outputs.pred_masks[:, 0], scores, strict=True):
            bitmap = at_size(mask, frames.width, frames.height) > logit(self._least.mask)
            if bitmap.any():
                yield _followed(each, begun[number].label, bitmap, score, place + 1, number)
        forget(session, self.weights.model.config)


class Sam3Tracker:
    """SAM 3, which finds in each frame what the labels say and follows it."""

    def __init__(self, weights: LoadedWeights, least: Least) -> None:
        from transformers.models.sam3_video import modeling_sam3_video

        # It would fetch code of a hub and run it, to drop boxes that are given twice and to fill holes of masks.
        modeling_sam3_video.cv_utils_kernel = False
        self.weights, self._least = weights, least

    def encode(self, each: GenerationRequest) -> Any:
        return encoded_texts(self.weights.processor.tokenizer, RegionFinder.wanted(each.request.enrichment))

    def follow(self, each: GenerationRequest, encoded: Any) -> list[Detection]:
        model, processor = self.weights.model, self.weights.processor
        frames = SampledFrames(_video_of(each), self.weights)
        labels = RegionFinder.wanted(each.request.enrichment)
        found: list[Detection] = []
        with inference_session(self.weights, frames) as session, _refused_if_no_number(model.detector_model):
            for label, tokens, mask in zip(labels, encoded["input_ids"], encoded["attention_mask"], strict=True):
                number = session.add_prompt(label)
                session.prompt_input_ids[number] = tokens[None].to(model.device)
                session.prompt_attention_masks[number] = mask[None].to(model.device)
            for outputs in model.propagate_in_video_iterator(session):
                refuse_what_is_no_number(*outputs.obj_id_to_mask.values())
                # The processor cuts at 0, a probability of a half.
                least = logit(self._least.mask)
                outputs.obj_id_to_mask = {k: mask.float() - least for k, mask in outputs.obj_id_to_mask.items()}
                seen = processor.postprocess_outputs(session, outputs)
                for number, score, mask in zip(seen["object_ids"].tolist(), seen["scores"], seen["masks"], strict=True):
                    bitmap = mask.cpu().numpy()
                    if bitmap.any() and float(score) >= self._least.score:
                        label = session.prompts[session.obj_id_to_prompt_id[number]]
                        found.append(_followed(each, label, bitmap, float(score), outputs.frame_idx + 1, number))
                forget(session, model.config.tracker_config)
        return found


def _followed(each: GenerationRequest, label: str, bitmap: Bitmap, score: float, frame: int, track: int) -> Detection:
    """An object in a frame, of which the first is 1: the box around its mask, in fractions, and the mask as a COCO RLE
    of the original's size if masks are asked. `bitmap`: (height, width) of the frame, not empty.
    """
    if not each.request.enrichment.masks:
        return Detection(label, box_of(bitmap), score, frame=frame, track=track)
    large = enlarged(bitmap, each.request.media.width, each.request.media.height)
    return Detection(label, box_of(large), score, encode_mask(large), frame, track)


def not_followed(boxes: Sequence[Detection], seen: Sequence[Detection]) -> list[Detection]:
    """The boxes of a frame that show none of the objects which are followed and seen there.

    Boxes and objects are paired so that they overlap most as a whole. A box without a pair that lies where an object
    does shows it too: it was given twice. Labels count for nothing: a detector wavers between "car" and "truck".
    """
    if not boxes or not seen:
        return list(boxes)
    from scipy.optimize import linear_sum_assignment

    shared = overlaps(np.array([each.box for each in boxes]), np.array([each.box for each in seen]))
    pairs = zip(*linear_sum_assignment(-shared), strict=True)
    paired = {int(box) for box, place in pairs if shared[box, place] >= _LEAST_PAIRED}
    return [each for k, each in enumerate(boxes) if k not in paired and shared[k].max() < _SAME_PLACE]


def read_tracks(text: str, video: DecodedVideo, box_format: BoxFormat) -> TracksResult:
    """The tracks of a reply, numbered anew. Raises ReplyError or GeometryError."""
    transform = ImageTransform.whole(video.width, video.height)
    members: dict[int, list[TrackPoint]] = {}
    labels: dict[int, str] = {}
    for each in read_detections(text):
        if each.track is None or each.frame is None or not 0 < each.frame <= len(video.frames):
            raise ReplyError(f"what is followed is in a frame and has a number: {str(each)[:80]}")
        index, seconds = video.indices[each.frame - 1], video.seconds[each.frame - 1]
        point = TrackPoint(index, seconds, box_format.to_pixels(each.box, transform), each.score, mask=each.mask)
        members.setdefault(each.track, []).append(point)
        labels[each.track] = each.label
    tracks = [Track(number, labels[number], tuple(points)) for number, points in members.items()]
    return TracksResult(numbered(tracks))


class SampledFrames:
    """A video's frames by their place, as its processor makes them: each when it is asked for, 12 MiB of numbers."""

    def __init__(self, video: DecodedVideo, weights: LoadedWeights) -> None:
        self._images, self._weights = video.frames, weights
        self.width, self.height = video.frames[0].size

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> Any:
        model = self._weights.model
        made = self._weights.processor.video_processor(
            videos=np.array(self._images[place])[None],
            device=model.device,
            do_sample_frames=False,
            return_tensors="pt",
        )
        return made["pixel_values_videos"][0][0].to(model.device, model.dtype)


@contextmanager
def inference_session(weights: LoadedWeights, frames: SampledFrames) -> Iterator[Any]:
    """A session of transformers about a video, in which nothing is left afterwards, whatever happens: an error's
    traceback would keep it.
    """
    model = weights.model
    session = weights.processor.init_video_session(inference_device=model.device, dtype=model.dtype)
    session.processed_frames = frames  # where the library would hold all of them
    session.video_width, session.video_height = frames.width, frames.height
    try:
        yield session
    finally:
        session.reset_inference_session()
        session.processed_frames = None


def forget(session: Any, config: Any) -> None:
    """Let go of what a session keeps of each object in each frame and no later frame looks at.

    `config`: that of the model which follows. It looks back over `num_maskmem` frames and
    `max_object_pointers_in_encoder` of them for what an object is like, and ever at the frames that it was shown.
    """
    kept = max(config.num_maskmem, config.max_object_pointers_in_encoder)
    for outputs in session.output_dict_per_obj.values():
        followed = outputs["non_cond_frame_outputs"]
        for old in [frame for frame in followed if frame <= max(followed) - kept]:
            del followed[old]
        for of_frame in (*followed.values(), *outputs["cond_frame_outputs"].values()):
            of_frame.pop("high_res_masks", None)  # 4 MiB each, needed for the memory of its frame alone


@contextmanager
def _refused_if_no_number(detector: Any) -> Iterator[None]:
    """While this lasts a detector that gives NaN, of which no threshold would tell, raises FloatingPointError."""

    def check(_module: Any, _inputs: Any, outputs: Any) -> None:
        refuse_what_is_no_number(outputs.pred_logits, outputs.presence_logits, outputs.pred_masks)

    hook = detector.register_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()


def image_model_of(video_model: Any) -> Any:
    """SAM 2 for images out of SAM 2 for videos: of the same modules, so that weights are in memory once."""
    import copy

    import torch
    from transformers import Sam2Config, Sam2Model

    config = copy.deepcopy(video_model.config)
    parts = {name: getattr(config, name) for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    with torch.device("meta"):
        model = Sam2Model(Sam2Config(**parts))
    for name in ("shared_image_embedding", "vision_encoder", "prompt_encoder", "mask_decoder", "no_memory_embedding"):
        setattr(model, name, getattr(video_model, name))
    return model.eval()


def _is_video(each: GenerationRequest) -> bool:
    return isinstance(each.request.media, DecodedVideo)


def _video_of(each: GenerationRequest) -> DecodedVideo:
    assert isinstance(each.request.media, DecodedVideo)
    return each.request.media


def _apart(batch: Sequence[GenerationRequest]) -> tuple[list[GenerationRequest], list[GenerationRequest]]:
    return [each for each in batch if not _is_video(each)], [each for each in batch if _is_video(each)]
