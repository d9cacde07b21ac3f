"""What the local (transformers) systems share: loading, batching, and splitting on out-of-memory."""

from __future__ import annotations

import gc
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from blocks.vision_model import Availability, Generated, Prompt, ReplyError, VisionModel
from schemas.failure import Cause, Failure, ModelError
from schemas.vision import VisionReply, VisionRequest

AllowedTokens = Callable[[int, Any], list[int]]

_SAMPLES_PER_FILE = 16
_SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Unit:
    """One prompt about one media object: what a batch is made of."""

    request: VisionRequest
    prompt: Prompt


class LocalVisionModel(VisionModel):
    """A model that runs in this process on transformers' own classes: safetensors only, no remote code,
    pinned revision, greedy decoding. Media do not leave the machine.
    """

    hosted: ClassVar[bool] = False
    model_class: ClassVar[str]
    """Name of the class in `transformers` that holds the weights."""
    memory_gib: ClassVar[float] = 1.0
    """Device memory the default weights need in the default dtype, with a batch of one."""

    batch_size: int = Field(default=8, ge=1, description="Objects a forward pass, halved when memory ends.")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU, float32 on a CPU."
    )

    _model: Any = PrivateAttr(default=None)
    _processor: Any = PrivateAttr(default=None)

    # --- what a subclass says -------------------------------------------------------------------

    @abstractmethod
    def generate(self, units: Sequence[Unit]) -> list[Generated]:
        """One forward pass over a batch: the reply to each unit, in order."""

    def only_choices(self, units: Sequence[Unit], prompt_length: int) -> AllowedTokens | None:
        """A rule for `generate(prefix_allowed_tokens_fn=)` that cannot leave the choices of each unit.

        `prompt_length`: how many tokens stand before the reply (0 for encoder-decoders, whose first
        token is the decoder's start). None when no unit has choices.
        """
        if not any(unit.prompt.choices for unit in units):
            return None
        tokenizer = self._processor.tokenizer
        end = tokenizer.eos_token_id
        start = prompt_length or 1
        everything = list(range(len(tokenizer)))
        spelled = [
            [tokenizer(c, add_special_tokens=False)["input_ids"] + [end] for c in unit.prompt.choices] for unit in units
        ]

        def allowed(place: int, tokens: Any) -> list[int]:
            if not spelled[place]:
                return everything
            said = tokens.tolist()[start:]
            following = {c[len(said)] for c in spelled[place] if c[: len(said)] == said and len(c) > len(said)}
            return sorted(following) or [end]

        return allowed

    # --- loading --------------------------------------------------------------------------------

    def local_path(self) -> Path | None:
        """The folder of the weights, if they are on this machine: the id itself or the hub's cache."""
        folder = Path(self.ref.id).expanduser()
        if folder.is_dir():
            return folder
        if self.ref.id.startswith((".", "/", "~")):
            return None
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self.ref.id, revision=self.ref.revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
            return None

    @property
    def notice(self) -> str:
        """The `notice.txt` beside the weights, if there is one."""
        file = Path(self.ref.id).expanduser() / "notice.txt"
        return file.read_text(encoding="utf-8").strip()[:500] if file.is_file() else ""

    def availability(self) -> Availability:
        path = self.local_path()
        if path is None:
            remedy = (
                "check the folder's path"
                if self.ref.id.startswith((".", "/", "~"))
                else f"run: sightflow models pull {self.system}"
            )
            return Availability(False, f"the weights of {self.ref.id} are not on this machine", remedy)
        if not any(path.glob("*.safetensors")):
            return Availability(False, f"{path} holds no .safetensors file", "only safetensors weights are loaded")
        return Availability(True, f"weights in {path}")

    def pull(self) -> Path:
        """Download the weights into the hub's cache, with progress; what is there already is not fetched again.

        Raises ModelError that says what to do: accept a licence, log in, check the id.
        """
        if self.ref.id.startswith((".", "/", "~")):
            raise ModelError(f"{self.system}: {self.ref.id} is a folder; there is nothing to pull")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
        from huggingface_hub.errors import RevisionNotFoundError as NoSuchRevision

        wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
        where = f"{self.ref.id} at revision {self.ref.revision or 'main'}"
        try:
            return Path(snapshot_download(self.ref.id, revision=self.ref.revision, allow_patterns=wanted))
        except GatedRepoError:
            remedy = "accept its licence on its page of the hub, then log in with: hf auth login (or set HF_TOKEN)"
            raise ModelError(f"{self.system}: {where} is gated; {remedy}") from None
        except NoSuchRevision:
            raise ModelError(f"{self.system}: there is no {where}; check --revision") from None
        except (RepositoryNotFoundError, HFValidationError):
            raise ModelError(f"{self.system}: the hub knows no {where}; check --id, or log in if private") from None
        except Exception as error:
            # Whatever the network did: what has arrived stays in the cache, and the next try goes on from there.
            message = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{self.system}: the download of {where} broke off ({type(error).__name__}: {message}); "
                "run the same command again, it goes on where it stopped"
            ) from None

    def weights_digest(self) -> str:
        """For a hub id the id and revision; for a folder, a digest of its content, so that the same
        weights in another place count as the same and a retrained model does not.

        Large files are sampled (16 spread chunks and the size), so that planning stays quick.
        """
        path = Path(self.ref.id).expanduser()
        if not path.is_dir():
            return super().weights_digest()
        digest = hashlib.sha256()
        for file in sorted([*path.glob("*.safetensors"), *path.glob("*.json")]):
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}:".encode())
            with file.open("rb") as stream:
                last = max(size - _SAMPLE_BYTES, 0)
                for k in range(_SAMPLES_PER_FILE):
                    stream.seek(last * k // (_SAMPLES_PER_FILE - 1))
                    digest.update(stream.read(_SAMPLE_BYTES))
        return f"{path.name}@{self.revision or digest.hexdigest()[:16]}"

    def prepare(self) -> None:
        if self._model is not None:
            return
        available = self.availability()
        if not available.usable:
            raise ModelError(f"{self.system}: {available.why}; {available.remedy}")
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        path = self.local_path()
        device = self.resolved_device()
        dtype = {"auto": torch.bfloat16 if device.startswith("cuda") else torch.float32}.get(self.dtype) or getattr(
            torch, self.dtype
        )
        try:
            model = getattr(transformers, self.weights_class).from_pretrained(
                path, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
            )
            self._processor = self.load_processor(path)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{self.system}: the weights in {path} cannot be loaded as {self.weights_class}: {error}"
            ) from None
        self._model = model.to(device).eval()
        self.adapt()

    @property
    def weights_class(self) -> str:
        """The class in `transformers` for these weights; a family of several chooses by their config."""
        return self.model_class

    def adapt(self) -> None:
        """What is set on the model and its processor once they are loaded; nothing, unless overridden."""

    def load_processor(self, path: Path | None) -> Any:
        """The processor that belongs to the weights."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(path, trust_remote_code=False, local_files_only=True)

    def resolved_device(self) -> str:
        """The device `auto` stands for: the GPU where there is one, else the CPU."""
        if self.device != "auto":
            return self.device
        import torch

        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    # --- the loop -------------------------------------------------------------------------------

    def run(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        self.prepare()
        asked: list[list[Prompt]] = [list(self.prompts(request.enrichment, request.media.kind)) for request in requests]
        units = [Unit(r, p) for r, prompts in zip(requests, asked, strict=True) for p in prompts]
        said: list[Generated | Failure | None] = [None] * len(units)
        for batch in self._batches(units):
            for place, generated in zip(batch, self._generate([units[k] for k in batch]), strict=True):
                said[place] = generated
        replies, start = [], 0
        for request, prompts in zip(requests, asked, strict=True):
            answers = said[start : start + len(prompts)]
            start += len(prompts)
            pairs = [(p, a) for p, a in zip(prompts, answers, strict=True) if a is not None]
            replies.append(self.reply(request, pairs))
        return replies

    def _batches(self, units: Sequence[Unit]) -> list[list[int]]:
        """Places of units, batched: objects of similar size together (little padding), and all that is
        asked of one object in one batch (its image is encoded once).
        """
        by_object: dict[int, list[int]] = {}
        for place, unit in enumerate(units):
            by_object.setdefault(id(unit.request.media), []).append(place)
        groups = sorted(by_object.values(), key=lambda places: self._size(units[places[0]]))
        batches: list[list[int]] = []
        for k in range(0, len(groups), self.batch_size):
            batches.append([place for group in groups[k : k + self.batch_size] for place in group])
        return batches

    @staticmethod
    def _size(unit: Unit) -> tuple[int, int]:
        return (unit.request.media.width, unit.request.media.height)

    def _generate(self, units: Sequence[Unit]) -> list[Generated | Failure]:
        """Generate for a batch; when it fails, halve it until the unit that causes it stands alone."""
        import torch

        try:
            with torch.inference_mode():
                return list(self.generate(units))
        except Exception as error:
            out_of_memory = is_out_of_memory(error)
            cause = error.cause if isinstance(error, ReplyError) else Cause.MODEL
            message = f"{type(error).__name__}: {error}"[:500]
        # Outside the except clause, so that the traceback no longer keeps the batch's tensors alive.
        if out_of_memory:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if len(units) > 1:
            half = len(units) // 2
            return self._generate(units[:half]) + self._generate(units[half:])
        if out_of_memory:
            return [Failure(Cause.OUT_OF_MEMORY, f"alone in its batch, and still: {message}")]
        return [Failure(cause, message)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the host ran out of memory."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower()
