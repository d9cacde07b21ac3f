"""Train the demo's Qwen2-VL on drawn films of moving shapes, from random weights, on a CPU.

    python -m sightflow.infra.demo.train_qwen2_vl --steps 6000

As with the demo's Florence-2, plain cross-entropy does not teach so small a model to look: while it trains, a linear
head tells from each video token the colour, shape and box of the object that covers it. The head is not saved.
"""

import argparse
import random
import time
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from sightflow.infra.demo.bucket import VIDEO_MODEL_FOLDER
from sightflow.infra.demo.moving_scenes import draw_clip
from sightflow.infra.demo.scenes import TRAINING_SEED
from sightflow.infra.demo.shapes_vocabulary import COLOUR_NAMES, SHAPES, article, enumerate_phrases
from sightflow.infra.demo.small_qwen2_vl import (
    CELL,
    FRAMES,
    MERGE,
    MOST_PIXELS,
    PATCH,
    WIDTH,
    build_model,
    build_processor,
    chat,
)

DESCRIBE: Final = "Describe this video in one sentence."
_OPPOSITE: Final = {"moves right": "moves left", "moves left": "moves right"}
_BACKWARDS: Final = {**_OPPOSITE, "moves up": "moves down", "moves down": "moves up"}
_IGNORED: Final = -100


@dataclass(frozen=True)
class VideoSample:
    """One training film: 8 frames (8, H, W, 3) as the processor would resize them; of each pair of frames and each
    cell of 16x16 pixels the mover that covers it, (4, H/16, W/16), -1 for none; the boxes (4, movers, 4) in fractions;
    and of each mover its label, motion, and where it starts and ends on the x axis, in fractions.
    """

    frames: npt.NDArray[np.uint8]
    owners: npt.NDArray[np.int8]
    boxes: npt.NDArray[np.float32]
    labels: tuple[str, ...]
    motions: tuple[str, ...]
    starts: tuple[float, ...]
    ends: tuple[float, ...]

    def mirrored(self) -> "VideoSample":
        """The film seen in a mirror."""
        boxes = self.boxes.copy()
        boxes[..., 0], boxes[..., 2] = 1 - self.boxes[..., 2], 1 - self.boxes[..., 0]
        return VideoSample(
            self.frames[:, :, ::-1],
            self.owners[:, :, ::-1],
            boxes,
            self.labels,
            tuple(_OPPOSITE.get(motion, motion) for motion in self.motions),
            tuple(1 - x for x in self.starts),
            tuple(1 - x for x in self.ends),
        )

    def backwards(self) -> "VideoSample":
        """The film from its end to its start; the truth of each pair of frames is told of its other frame."""
        return VideoSample(
            self.frames[::-1],
            self.owners[::-1],
            self.boxes[::-1],
            self.labels,
            tuple(_BACKWARDS.get(motion, motion) for motion in self.motions),
            self.ends,
            self.starts,
        )

    @property
    def order(self) -> list[int]:
        """The movers, left to right by where they start."""
        return sorted(range(len(self.labels)), key=lambda k: self.starts[k])

    @property
    def caption(self) -> str:
        """As `Clip.caption`."""
        said = [f"{article(self.labels[k])} {self.labels[k]} {self.motions[k]}" for k in self.order]
        return enumerate_phrases(said)


def draw_video(seed: int) -> VideoSample:
    """Draw the training film of a seed."""
    clip = draw_clip(seed)
    height, width = smart_resize(
        clip.height, clip.width, factor=CELL, min_pixels=CELL * CELL * 4, max_pixels=MOST_PIXELS
    )
    rows, columns = height // CELL, width // CELL
    frames, owners = [], []
    boxes = np.zeros((FRAMES // 2, len(clip.movers), 4), dtype=np.float32)
    for k in range(FRAMES):
        # The frames that a uniform sampling of 8 takes: the middles of equal parts.
        image, objects = clip.frame(int((k + 0.5) * clip.frame_count / FRAMES))
        frames.append(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))
        if k % 2:
            continue
        cover = np.zeros((len(clip.movers), rows, columns), dtype=np.float32)
        for thing in objects:
            mask = Image.fromarray(thing.mask.astype(np.float32))
            cover[thing.placement] = np.asarray(mask.resize((columns, rows), Image.Resampling.BOX))
            x_min, y_min, x_max, y_max = thing.box
            boxes[k // 2, thing.placement] = (
                x_min / clip.width, y_min / clip.height, x_max / clip.width, y_max / clip.height
            )  # fmt: skip
        owners.append(np.where(cover.max(axis=0) > 0.3, cover.argmax(axis=0), -1).astype(np.int8))
    return VideoSample(
        np.stack(frames),
        np.stack(owners),
        boxes,
        tuple(f"{mover.colour} {mover.shape}" for mover in clip.movers),
        tuple(mover.motion for mover in clip.movers),
        tuple(mover.start[0] / clip.width for mover in clip.movers),
        tuple(mover.end[0] / clip.width for mover in clip.movers),
    )


def ask(sample: VideoSample, rng: random.Random) -> tuple[str, str]:
    """A question about a film and its answer; most often the caption is asked for."""
    chance = rng.random()
    if chance < 0.7:
        return DESCRIBE, sample.caption
    if chance < 0.9:
        k = rng.randrange(len(sample.labels))
        return f"What does the {sample.labels[k]} do?\nAnswer briefly.", sample.motions[k]
    return "How many shapes are there?\nAnswer briefly.", str(len(sample.labels))


class Learner(nn.Module):
    """The model with its auxiliary head."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.auxiliary = nn.Linear(WIDTH, len(COLOUR_NAMES) + 1 + len(SHAPES) + 1 + 4)

    def patches(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """What the video processor makes of frames (8, H, W, 3) of the right size, many times quicker."""
        video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
        looks = self.processor.video_processor
        mean, spread = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (looks.image_mean, looks.image_std))
        video = (video - mean) / spread
        count, channels, height, width = video.shape
        rows, columns = height // CELL, width // CELL
        parts = video.view(count // 2, 2, channels, rows, MERGE, PATCH, columns, MERGE, PATCH)
        return parts.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * 2 * PATCH * PATCH)

    def check_patches(self, sample: VideoSample) -> None:
        """Raise if `patches` is not what the processor gives."""
        sizes = {"do_resize": False, "return_tensors": "pt"}
        theirs = self.processor.video_processor(videos=[np.ascontiguousarray(sample.frames)], **sizes)
        torch.testing.assert_close(self.patches(sample.frames), theirs["pixel_values_videos"], atol=1e-4, rtol=1e-4)

    def forward(self, samples: list[VideoSample], asked: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        """Return the loss of the answers and of the auxiliary head."""
        tokenizer = self.processor.tokenizer
        texts = []
        for sample, (question, answer) in zip(samples, asked, strict=True):
            pads = "<|video_pad|>" * sample.owners.size
            texts.append(chat(self.processor, question).replace("<|video_pad|>", pads) + answer + tokenizer.eos_token)
        inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
        inputs["mm_token_type_ids"] = 2 * (inputs["input_ids"] == self.processor.video_token_id).long()
        packed = [self.patches(sample.frames) for sample in samples]
        inputs["pixel_values_videos"] = torch.cat(packed)
        grids = [[FRAMES // 2, 2 * sample.owners.shape[1], 2 * sample.owners.shape[2]] for sample in samples]
        inputs["video_grid_thw"] = torch.tensor(grids)
        labels = torch.full_like(inputs["input_ids"], _IGNORED)
        for row, (_, answer) in enumerate(asked):
            # Padding stands on the left: the answer and its end are the last tokens of every row.
            said = len(tokenizer(answer)["input_ids"]) + 1
            labels[row, -said:] = inputs["input_ids"][row, -said:]
        seen: dict[str, Tensor] = {}
        hook = self.model.model.visual.merger.register_forward_hook(lambda _m, _i, out: seen.update(tokens=out))
        logits = self.model(**inputs).logits
        hook.remove()
        kept = labels[:, 1:] != _IGNORED
        text = F.cross_entropy(logits[:, :-1][kept].float(), labels[:, 1:][kept])
        return text, self._auxiliary_loss(seen["tokens"], samples)

    def _auxiliary_loss(self, tokens: Tensor, samples: list[VideoSample]) -> Tensor:
        colours, shapes, boxes = [], [], []
        for sample in samples:
            owner = torch.from_numpy(np.ascontiguousarray(sample.owners)).long()
            names = [label.split() for label in sample.labels]
            kinds = torch.tensor([COLOUR_NAMES.index(c) for c, _ in names] + [len(COLOUR_NAMES)])
            forms = torch.tensor([SHAPES.index(s) for _, s in names] + [len(SHAPES)])
            corners = torch.from_numpy(np.ascontiguousarray(sample.boxes))
            corners = torch.cat([corners, torch.zeros(corners.shape[0], 1, 4)], dim=1)
            colours.append(kinds[owner].flatten())
            shapes.append(forms[owner].flatten())
            boxes.append(torch.stack([corners[t][owner[t]] for t in range(len(corners))]).flatten(0, 2))
        colour, shape = torch.cat(colours), torch.cat(shapes)
        told = self.auxiliary(tokens)
        say_colour, say_shape, say_box = told.split([len(COLOUR_NAMES) + 1, len(SHAPES) + 1, 4], dim=-1)
        covered = shape < len(SHAPES)
        loss: Tensor = F.cross_entropy(say_colour, colour) + F.cross_entropy(say_shape, shape)
        return loss + 5 * F.l1_loss(say_box[covered], torch.cat(boxes)[covered])


def save(model: Any, processor: Qwen2VLProcessor, folder: Path) -> None:
    """Write weights in half precision and all that `from_pretrained` needs; loading gives float32 by default."""
    folder.mkdir(parents=True, exist_ok=True)
    deepcopy(model).half().save_pretrained(folder)
    processor.save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))
    (folder / "model.safetensors").chmod(0o644)


def train(args: argparse.Namespace) -> None:
    """Train from `args.state` or from random weights to `args.steps`, saving the model on the way."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with get_context("spawn").Pool(args.threads) as pool:
        samples = pool.map(draw_video, range(TRAINING_SEED, TRAINING_SEED + args.samples), chunksize=100)
    print(f"{len(samples)} films drawn", flush=True)
    processor = build_processor()
    learner = Learner(build_model(processor.tokenizer), processor)
    learner.check_patches(samples[0])
    matrices = [p for p in learner.parameters() if p.ndim > 1]
    others = [p for p in learner.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=args.peak,
        betas=(0.9, 0.98),
    )
    first = 0
    if args.state.is_file():
        state = torch.load(args.state, weights_only=True)
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    learner.train()
    began, seen = time.monotonic(), torch.zeros(2)
    for step in range(first, args.steps):
        rng = random.Random(f"{args.seed}/{step}")
        batch = [rng.choice(samples) for _ in range(args.batch)]
        batch = [sample.mirrored() if rng.random() < 0.5 else sample for sample in batch]
        batch = [sample.backwards() if rng.random() < 0.5 and _ends_apart(sample) else sample for sample in batch]
        asked = [ask(sample, rng) for sample in batch]
        fall = args.steps * (1 - args.cooldown)
        share = (step + 1) / args.warmup if step < args.warmup else min(1.0, (args.steps - step) / (args.steps - fall))
        for group in optimizer.param_groups:
            group["lr"] = args.peak * min(share, 1.0)
        text, auxiliary = learner(batch, asked)
        optimizer.zero_grad(set_to_none=True)
        (text + auxiliary).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        seen += torch.stack([text.detach(), auxiliary.detach()])
        done = step + 1
        if done % 50 == 0:
            pace = (time.monotonic() - began) / 50
            print(f"{done} text {seen[0] / 50:.3f} aux {seen[1] / 50:.3f} {pace:.2f} s/step", flush=True)
            began, seen = time.monotonic(), torch.zeros(2)
        if done % args.keep_every == 0 or done == args.steps:
            args.state.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"learner": learner.state_dict(), "optimizer": optimizer.state_dict(), "step": done}, args.state)
            save(learner.model, processor, args.output)


def _ends_apart(sample: VideoSample) -> bool:
    """Whether the order of the shapes by where they end is clear."""
    ends = sorted(sample.ends)
    return all(b - a > 0.1 for a, b in pairwise(ends))


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=11, help="weights and batches follow from it")
    parser.add_argument("--batch", type=int, default=24, help="films a step")
    parser.add_argument("--peak", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=200, help="steps of rising learning rate")
    parser.add_argument("--cooldown", type=float, default=0.5, help="share of the steps with falling rate")
    parser.add_argument("--videos", type=int, default=12_000, help="training films drawn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--state", type=Path, default=Path("/tmp/demo-train/qwen2-vl-state.pt"))
    parser.add_argument("--output", type=Path, default=VIDEO_MODEL_FOLDER)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
