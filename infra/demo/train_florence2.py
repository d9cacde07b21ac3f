"""Train the demo's Florence-2 on drawn scenes, from random weights, on a CPU.

    python -m sightflow.infra.demo.train_florence2 --steps 5000

Resumes from `--state` if it is there; `--start-from` begins with the weights of a folder instead of random ones.
Two things make so small a model learn to look, as plain cross-entropy does not: a dense auxiliary loss (from each
spatial image token, a linear head tells colour, shape and box of the object that covers it; the head is not saved with
the model), and soft targets for location tokens (a Gaussian over neighbouring bins that narrows as training goes on).
"""

import argparse
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.infra.demo.scenes import TRAINING_SEED
from sightflow.infra.demo.shapes_vocabulary import COLOUR_NAMES, LOCATION_BINS, SHAPES
from sightflow.infra.demo.small_florence2 import IMAGE_TOKENS, WIDTH, build_model, build_processor, save
from sightflow.infra.demo.tasks_of_scenes import ask, mix_at
from sightflow.infra.demo.training_cache import MIXTURES, Cached, load_or_draw

_IGNORED: Final = -100


@dataclass(frozen=True)
class Batch:
    """Tensors of B examples: pixels (B, 3, 128, 128) normalised; input ids (B, S) with attention (B, S); labels
    (B, T), -100 where padded; of each of the 64 image tokens, colour and shape classes (B, 64), the last class
    for none, and the box of its object (B, 64, 4) in fractions.
    """

    pixels: Tensor
    input_ids: Tensor
    attention: Tensor
    labels: Tensor
    colours: Tensor
    shapes: Tensor
    boxes: Tensor


class BatchMaker:
    """Draws batches from cached scenes; batch n is the same whenever it is drawn, so that training resumes."""

    def __init__(self, cached: Cached, processor: Florence2Processor, seed: int, size: int) -> None:
        self.cached, self.processor, self.seed, self.size = cached, processor, seed, size
        self.mean = torch.tensor(processor.image_processor.image_mean).view(1, 3, 1, 1)
        self.deviation = torch.tensor(processor.image_processor.image_std).view(1, 3, 1, 1)
        self.head = "<image>" * IMAGE_TOKENS + "<s>"

    def _texts(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        encoded = self.processor.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        return encoded["input_ids"], encoded["attention_mask"]

    def batch(self, step: int, mix: dict[str, float]) -> Batch:
        """Return the batch of a step, its tasks drawn from `mix` (task to share)."""
        rng = random.Random(f"{self.seed}/{step}")
        noise = np.random.default_rng([self.seed, step])
        rows = rng.choices(range(len(self.cached.things)), k=self.size)
        tasks = rng.choices(list(mix), weights=list(mix.values()), k=self.size)
        pixels, owners, inputs, answers, truths = [], [], [], [], []
        for row, task in zip(rows, tasks, strict=True):
            image, owner, things = self.cached.pixels[row], self.cached.owners[row], self.cached.things[row]
            if rng.random() < 0.5:
                image, owner = image[:, ::-1], owner[:, ::-1]
                mirrored = [thing.mirrored() for thing in things]
                order = sorted(
                    range(len(things)),
                    key=lambda i: (sum(mirrored[i].box[0::2]), sum(mirrored[i].box[1::2])),
                )
                things = tuple(mirrored[i] for i in order)
                rank = np.array([*np.argsort(order), -1], dtype=np.int8)
                owner = rank[owner]
            question, answer = ask(task, things, rng)
            pixels.append(np.ascontiguousarray(image))
            owners.append(np.ascontiguousarray(owner))
            truths.append(things)
            inputs.append(self.head + self.processor._construct_prompts(question)[0] + "</s>")
            answers.append(answer + "</s>")
        stack = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        light = torch.from_numpy(noise.uniform(0.85, 1.15, (self.size, 1, 1, 1))).float()
        grain = torch.from_numpy(noise.standard_normal(stack.shape, dtype=np.float32)) * 0.015
        stack = ((stack * light + grain).clamp(0, 1) - self.mean) / self.deviation
        input_ids, attention = self._texts(inputs)
        labels, kept = self._texts(answers)
        labels = labels.masked_fill(kept == 0, _IGNORED)
        colours, shapes, boxes = [], [], []
        for things, owner in zip(truths, owners, strict=True):
            names = [thing.label.split() for thing in things]
            kinds = torch.tensor([COLOUR_NAMES.index(c) for c, _ in names] + [len(COLOUR_NAMES)])
            forms = torch.tensor([SHAPES.index(s) for _, s in names] + [len(SHAPES)])
            corners = torch.tensor([*(thing.box for thing in things), (0.0, 0.0, 0.0, 0.0)])
            index = torch.from_numpy(owner).long().flatten()
            # Index -1, no object, picks the last row of each table.
            colours.append(kinds[index])
            shapes.append(forms[index])
            boxes.append(corners[index])
        return Batch(stack, input_ids, attention, labels, torch.stack(colours), torch.stack(shapes), torch.stack(boxes))


class Learner(nn.Module):
    """The model with its auxiliary head; the loss of a batch."""

    def __init__(self, model: Florence2ForConditionalGeneration, first_location: int) -> None:
        super().__init__()
        self.model = model
        self.auxiliary = nn.Linear(WIDTH, len(COLOUR_NAMES) + 1 + len(SHAPES) + 1 + 4)
        self.first_location = first_location

    def forward(self, batch: Batch, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the losses of text and of the auxiliary head; `sigma` is the width in bins of soft locations."""
        features = self.model.get_image_features(pixel_values=batch.pixels).pooler_output
        embedded = self.model.get_input_embeddings()(batch.input_ids)
        # The image tokens lead every input: there is no need to look for them.
        embedded = torch.cat([features, embedded[:, IMAGE_TOKENS:]], dim=1)
        logits = self.model(inputs_embeds=embedded, attention_mask=batch.attention, labels=batch.labels).logits
        return self._text_loss(logits, batch.labels, sigma), self._auxiliary_loss(features[:, 1:], batch)

    def _text_loss(self, logits: Tensor, labels: Tensor, sigma: float) -> Tensor:
        kept = labels != _IGNORED
        logs, labels = F.log_softmax(logits[kept].float(), dim=-1), labels[kept]
        where = (labels >= self.first_location) & (labels < self.first_location + LOCATION_BINS)
        words = -logs[~where].gather(1, labels[~where, None]).sum()
        bins = torch.arange(LOCATION_BINS)
        away = bins[None, :] - (labels[where, None] - self.first_location)
        target = torch.softmax(-0.5 * (away / sigma) ** 2, dim=1)
        logs = logs[where, self.first_location : self.first_location + LOCATION_BINS]
        return (words - (target * logs).sum()) / kept.sum()

    def _auxiliary_loss(self, tokens: Tensor, batch: Batch) -> Tensor:
        colours, shapes = len(COLOUR_NAMES) + 1, len(SHAPES) + 1
        told = self.auxiliary(tokens)
        colour, shape, box = told.split([colours, shapes, 4], dim=-1)
        covered = batch.shapes < len(SHAPES)
        loss: Tensor = F.cross_entropy(colour.flatten(0, 1), batch.colours.flatten())
        loss = loss + F.cross_entropy(shape.flatten(0, 1), batch.shapes.flatten())
        return loss + 5 * F.l1_loss(box[covered], batch.boxes[covered])


def pace(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """Return the share of the peak learning rate: a linear rise, a plateau, a linear fall to 2%.

    Unlike one cycle, the plateau does not depend on the number of steps, so a run can be cut short or extended.
    """
    fall = steps * (1 - cooldown)
    if step < warmup:
        return (step + 1) / warmup
    return 1.0 if step < fall else max(0.02, (steps - step) / max(steps - fall, 1))


def train(args: argparse.Namespace) -> None:
    """Train from `args.state` or from random weights to `args.steps`, saving the model on the way."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    processor = build_processor()
    model = build_model(processor.tokenizer)
    if args.start_from:
        model = Florence2ForConditionalGeneration.from_pretrained(args.start_from, dtype=torch.float32)
    learner = Learner(model, processor.tokenizer.convert_tokens_to_ids("<loc_0>"))
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
    maker = BatchMaker(
        load_or_draw(args.cache, TRAINING_SEED, args.scenes, args.mixture, args.threads),
        processor,
        args.seed,
        args.batch,
    )
    learner.train()
    seen, began = torch.zeros(2), time.monotonic()
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.peak * pace(step, args.steps, args.warmup, args.cooldown)
        sigma = args.sigma if args.start_from else max(args.sigma, 60 * 0.5 ** (step / 400))
        text, auxiliary = learner(maker.batch(step, mix_at(step, *args.widen)), sigma)
        # The auxiliary loss teaches the eyes; it may fade once they see.
        weight = 1.0 if step < args.steps * (1 - args.cooldown) else 0.5
        optimizer.zero_grad(set_to_none=True)
        (text + weight * auxiliary).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        seen += torch.stack([text.detach(), auxiliary.detach()])
        done = step + 1
        if done % 50 == 0:
            pause = (time.monotonic() - began) / 50
            print(f"{done} text {seen[0] / 50:.3f} aux {seen[1] / 50:.3f} {pause:.2f} s/step", flush=True)
            seen, began = torch.zeros(2), time.monotonic()
        if done % args.keep_every == 0 or done == args.steps:
            args.state.parent.mkdir(parents=True, exist_ok=True)
            partial = args.state.with_suffix(".partial")
            torch.save({"learner": learner.state_dict(), "optimizer": optimizer.state_dict(), "step": done}, partial)
            partial.replace(args.state)
            save(model, processor, args.output)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=7, help="weights, batches and noise all follow from it")
    parser.add_argument("--batch", type=int, default=24, help="examples a step")
    parser.add_argument("--peak", type=float, default=7e-4, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=200, help="steps of rising learning rate")
    parser.add_argument("--cooldown", type=float, default=0.45, help="share of the steps with falling rate")
    parser.add_argument("--sigma", type=float, default=4.0, help="narrowest soft location target, bins")
    parser.add_argument("--widen", type=int, nargs=2, default=(500, 1200), help="steps over which tasks join")
    parser.add_argument("--scenes", type=int, default=24_000, help="training scenes drawn")
    parser.add_argument("--start-from", type=Path, help="folder of weights to go on from, in a second stage")
    parser.add_argument("--mixture", choices=MIXTURES, default="scenes", help="what the training scenes are like")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/demo-train/scenes.npz"))
    parser.add_argument("--state", type=Path, default=Path("/tmp/demo-train/state.pt"))
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
