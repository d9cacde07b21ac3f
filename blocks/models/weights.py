"""The weights of a local system: finding them, fetching them, and loading them onto a device that can hold them."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from sightflow.blocks.models.vision_model import Availability, VisionModel
from sightflow.schemas.failure import ModelError

_SAMPLES_PER_FILE = 16
_SAMPLE_BYTES = 64 * 1024
_GIB = 2**30
_LONGEST_HEADER = 100_000_000
"""Bytes; as the safetensors library has it."""
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


class LocalWeights(VisionModel):
    """A model whose weights are a hub id or a local folder, loaded once by transformers' own classes.

    Safetensors only, no remote code, a pinned revision; what does not fit the device is refused before it is loaded.
    """

    model_class: ClassVar[str]
    """Name of the class in `transformers` that holds the weights."""
    memory_gib: ClassVar[float] = 1.0
    """Device memory that the default weights need in 16-bit numbers, with a batch of one."""

    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU, float32 on a CPU."
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        default="auto", description="auto: SDPA where the model has it."
    )
    placement: Literal["device", "accelerate"] = Field(
        default="device", description="accelerate: spread weights that do not fit over all devices and the host."
    )

    _model: Any = PrivateAttr(default=None)
    _processor: Any = PrivateAttr(default=None)

    @property
    def is_folder(self) -> bool:
        """Whether the id names a folder of this machine, there or not, and not a repository of the hub."""
        return self.ref.id.startswith((".", "/", "~")) or Path(self.ref.id).expanduser().is_dir()

    def local_path(self) -> Path | None:
        """The folder of the weights, if they are on this machine: the id itself or the hub's cache."""
        if self.is_folder:
            folder = Path(self.ref.id).expanduser()
            return folder if folder.is_dir() else None
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            # The same patterns as for pulling: without them a snapshot counts as lacking all that was left out.
            return Path(
                snapshot_download(
                    self.ref.id, revision=self.ref.revision, allow_patterns=list(_WANTED), local_files_only=True
                )
            )
        except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
            return None

    def availability(self) -> Availability:
        path = self.local_path()
        if path is None:
            remedy = "check the folder's path" if self.is_folder else f"run: sightflow models pull {self.system}"
            return Availability(False, f"the weights of {self.ref.id} are not on this machine", remedy)
        if not any(path.glob("*.safetensors")):
            return Availability(False, f"{path} holds no .safetensors file", "only safetensors weights are loaded")
        if missing := missing_shards(path):
            remedy = "copy them" if self.is_folder else f"run again: sightflow models pull {self.system}"
            return Availability(False, f"{path} lacks {', '.join(missing[:3])} of its index", remedy)
        return Availability(True, f"weights in {path}")

    def pull(self) -> Path:
        """Download the weights into the hub's cache, with progress; what is there already is not fetched again.

        Raises ModelError that says what to do: accept a licence, log in, check the id.
        """
        if self.is_folder:
            raise ModelError(f"{self.system}: {self.ref.id} is a folder; there is nothing to pull")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
        from huggingface_hub.errors import RevisionNotFoundError as NoSuchRevision

        where = f"{self.ref.id} at revision {self.ref.revision or 'main'}"
        try:
            return Path(
                snapshot_download(
                    self.ref.id, revision=self.ref.revision, allow_patterns=list(_WANTED), tqdm_class=progress_bar()
                )
            )
        except GatedRepoError:
            remedy = "accept its licence on its page of the hub, then log in with: hf auth login (or set HF_TOKEN)"
            raise ModelError(f"{self.system}: {where} is gated; {remedy}") from None
        except NoSuchRevision:
            raise ModelError(f"{self.system}: there is no {where}; check --revision") from None
        except (RepositoryNotFoundError, HFValidationError):
            raise ModelError(f"{self.system}: the hub knows no {where}; check --id, or log in if private") from None
        except Exception as error:
            # Whatever the network did: files that have arrived whole stay in the cache and are not fetched again.
            message = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{self.system}: the download of {where} broke off ({type(error).__name__}: {message}); "
                "run the same command again, it fetches what is missing"
            ) from None

    def weights_digest(self) -> str:
        """For a hub id the id and the commit that was pulled; for a folder, a digest of its content, so that
        the same weights in another place count as the same and a retrained model does not.

        Large files are sampled (16 spread chunks and the size), so that planning stays quick.
        """
        path = Path(self.ref.id).expanduser()
        if not path.is_dir():
            pulled = self.local_path()  # the cache names a snapshot by its commit, to which "main" was resolved
            return super().weights_digest() if pulled is None else f"{self.ref.id}@{pulled.name}"
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

    def generation_settings(self) -> dict[str, Any]:
        settings = super().generation_settings()
        return settings if self.dtype == "auto" else settings | {"dtype": self.dtype}

    def prepare(self) -> None:
        if self._model is not None:
            return
        available = self.availability()
        path = self.local_path()
        if not available.usable or path is None:
            raise ModelError(f"{self.system}: {available.why}; {available.remedy}")
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        device = self.resolved_device()
        dtype = {"auto": torch.bfloat16 if device.startswith("cuda") else torch.float32}.get(self.dtype) or getattr(
            torch, self.dtype
        )
        self._refuse_what_does_not_fit(path, device, dtype.itemsize)
        self.refuse_another_model(path)
        placed = {"device_map": "auto"} if self.placement == "accelerate" else {}
        try:
            model, loading = getattr(transformers, self.weights_class).from_pretrained(
                path,
                dtype=dtype,
                attn_implementation=None if self.attention == "auto" else self.attention,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **placed,
            )
            self._processor = self.load_processor(path)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelError(
                f"{self.system}: the weights in {path} cannot be loaded as {self.weights_class}: {error}"
            ) from None
        if missing := sorted(loading["missing_keys"]):
            # transformers would fill them with random numbers and go on.
            raise ModelError(f"{self.system}: {path} lacks {len(missing)} of the weights, e.g. {missing[0]}")
        self._model = (model if placed else model.to(device)).eval()
        self.on_loaded()

    @property
    def weights_class(self) -> str:
        """The class in `transformers` for these weights; a family of several chooses by their config."""
        return self.model_class

    def on_loaded(self) -> None:
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

    def memory_needed(self, path: Path, bytes_a_number: int) -> float:
        """GiB that the weights in a folder need: as declared for the default ones, else their numbers and a fifth."""
        if self.ref.id == self.default.id:
            return self.memory_gib * bytes_a_number / 2
        return count_numbers(path) * bytes_a_number * 1.2 / _GIB

    def _refuse_what_does_not_fit(self, path: Path, device: str, bytes_a_number: int) -> None:
        free = free_memory(device)
        if free is None or self.placement == "accelerate":
            return
        needed = self.memory_needed(path, bytes_a_number)
        if needed > free:
            raise ModelError(
                f"{self.system}: {self.ref.id} needs about {needed:.1f} GiB in {8 * bytes_a_number}-bit numbers and "
                f"{device} has {free:.1f} GiB free; set placement: accelerate, a smaller id or another device"
            )

    def refuse_another_model(self, path: Path) -> None:
        """Refuse weights of another model, which transformers would load as random ones, with a warning."""
        import transformers

        wanted = getattr(transformers, self.weights_class).config_class.model_type
        said = model_type(path)
        if said != wanted:
            raise ModelError(f"{self.system}: {path} holds weights of {said!r}, not of {wanted!r}; check the id")


def progress_bar() -> type[Any]:
    """A tqdm that shows on a terminal and nowhere else, also where the hub's own bars are turned off for quiet."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class OnATerminal(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **({"disable": None} | settings))

    return OnATerminal


def model_type(path: Path) -> str | None:
    """What the config in a folder of weights calls its model."""
    try:
        said = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return str(said)


def missing_shards(path: Path) -> list[str]:
    """The files that a folder's index of weights names and that are not there."""
    missing: set[str] = set()
    for index in path.glob("*.safetensors.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            named = {index.name}
        missing |= {name for name in named if not (path / name).is_file()}
    return sorted(missing)


def count_numbers(path: Path) -> int:
    """How many numbers the safetensors files of a folder hold, read from their headers alone.

    A header is 8 bytes of its length, little-endian, then JSON: https://huggingface.co/docs/safetensors
    Raises ModelError if a file is no such file.
    """
    total = 0
    for file in path.glob("*.safetensors"):
        try:
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                if not 2 <= length <= _LONGEST_HEADER:
                    raise ValueError(f"a header of {length} bytes")
                header = json.loads(stream.read(length))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{file} is no safetensors file ({error}); fetch it again") from None
    return total


def free_memory(device: str) -> float | None:
    """GiB free on a device, or None where nobody can say."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(torch.device(device))[0]) / _GIB
    if device.startswith("cpu"):
        import psutil

        return min(float(psutil.virtual_memory().available), _left_to_the_container()) / _GIB
    return None


def device_name(device: str) -> str:
    """What a device is called, with its memory: what holds on one of a kind holds on the next."""
    if not device.startswith("cuda"):
        return device
    import torch

    facts = torch.cuda.get_device_properties(torch.device(device))
    return f"{facts.name} {facts.total_memory / _GIB:.0f} GiB"


def _left_to_the_container() -> float:
    """Bytes until the limit of the control group (version 2) this process runs in; the file cache can be dropped."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        figures = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - (used - int(figures["inactive_file"]))
    except (OSError, ValueError, KeyError):  # none, no limit, or another version
        return math.inf
