"""The weights of a local system as files: finding, fetching, telling apart and measuring them, without loading any."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from pathlib import Path
from typing import Any

from sightflow.blocks.extras import is_installed, require
from sightflow.blocks.models.contract import Availability
from sightflow.schemas.failure import ModelError
from sightflow.schemas.vision import ModelRef

_SAMPLES_PER_FILE = 16
_SAMPLE_BYTES = 64 * 1024
_LONGEST_HEADER = 100_000_000
"""Bytes; as the safetensors library has it."""
_LONGEST_CONFIG = 8 * 2**20
_NOTICE = "notice.txt"
_MAX_NOTICE_BYTES = 2000
_DOWNLOADED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def is_folder(model_id: str) -> bool:
    """Whether an id names a folder of this machine, there or not, and not a repository of the hub."""
    return model_id.startswith((".", "/", "~")) or Path(model_id).expanduser().is_dir()


def local_path(ref: ModelRef) -> Path | None:
    """The folder of the weights, if they are on this machine: the id itself or the hub's cache."""
    if is_folder(ref.id):
        folder = Path(ref.id).expanduser()
        return folder if folder.is_dir() else None
    if not is_installed("huggingface_hub"):
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    # What the hub's client calls a repository's folder. Without one nothing is there, and the client, which takes
    # longer to import than a run with nothing to do takes, need not be asked.
    if not Path(HF_HUB_CACHE, f"models--{ref.id.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # The same patterns as for pulling: without them a snapshot counts as lacking all that was left out.
        return Path(
            snapshot_download(ref.id, revision=ref.revision, allow_patterns=list(_DOWNLOADED), local_files_only=True)
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
        return None


def weights_availability(system: str, ref: ModelRef, default: ModelRef) -> Availability:
    """Whether a system's weights are here, whole, and of the one form that is loaded. `default`: the system's own."""
    path, words = local_path(ref), ["sightflow", "models", "pull", system]
    words += ["--id", ref.id] if ref.id != default.id else []
    words += ["--revision", ref.revision] if ref.revision and ref.revision != default.revision else []
    command = shlex.join(words)
    if path is None:
        remedy = "check the folder's path" if is_folder(ref.id) else f"run: {command}"
        return Availability(False, f"the weights of {ref.id} are not on this machine", remedy)
    if not any(path.glob("*.safetensors")):
        return Availability(False, f"{path} holds no .safetensors file", "only safetensors weights are loaded")
    if missing := missing_shards(path):
        remedy = "copy them" if is_folder(ref.id) else f"run again: {command}"
        return Availability(False, f"{path} lacks {', '.join(missing[:3])} of its index", remedy)
    return Availability(True, f"weights in {path}")


def pull(system: str, ref: ModelRef) -> Path:
    """Download the weights into the hub's cache, with progress; what is there already is not fetched again.

    Raises ModelError that says what to do: accept a licence, log in, check the id.
    """
    if is_folder(ref.id):
        raise ModelError(f"{system}: {ref.id} is a folder; there is nothing to pull")
    require("huggingface_hub", "local", "pulling weights")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as NoSuchRevision

    where = f"{ref.id} at revision {ref.revision or 'main'}"
    try:
        return Path(
            snapshot_download(
                ref.id, revision=ref.revision, allow_patterns=list(_DOWNLOADED), tqdm_class=progress_bar()
            )
        )
    except GatedRepoError:
        remedy = "accept its licence on its page of the hub, then log in with: hf auth login (or set HF_TOKEN)"
        raise ModelError(f"{system}: {where} is gated; {remedy}") from None
    except NoSuchRevision:
        raise ModelError(f"{system}: there is no {where}; check --revision") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(f"{system}: the hub knows no {where}; check --id, or log in if private") from None
    except Exception as error:
        # Whatever the network did: files that have arrived whole stay in the cache and are not fetched again.
        message = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{system}: the download of {where} broke off ({type(error).__name__}: {message}); "
            "run the same command again, it fetches what is missing"
        ) from None


def weights_digest(ref: ModelRef) -> str:
    """For a hub id the id and the commit that was pulled; for a folder, a digest of its content, so that
    the same weights in another place count as the same and a retrained model does not.

    Large files are sampled (16 spread chunks and the size), so that planning stays quick.
    """
    path = Path(ref.id).expanduser()
    if not path.is_dir():
        pulled = local_path(ref)  # the cache names a snapshot by its commit, to which "main" was resolved
        return f"{ref.id}@{(ref.revision or '') if pulled is None else pulled.name}"
    digest = hashlib.sha256()
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.json")]):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            last = max(size - _SAMPLE_BYTES, 0)
            for k in range(_SAMPLES_PER_FILE):
                stream.seek(last * k // (_SAMPLES_PER_FILE - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return f"{path.name}@{ref.revision or digest.hexdigest()[:16]}"


def notice(path: Path) -> str:
    """What the file `notice.txt` beside the weights says of them, on one line; empty if there is none."""
    try:
        with (path / _NOTICE).open("rb") as file:
            return " ".join(file.read(_MAX_NOTICE_BYTES).decode("utf-8", "replace").split())
    except OSError:
        return ""


def progress_bar() -> type[Any]:
    """A tqdm that shows on a terminal and nowhere else, also where the hub's own bars are turned off for quiet."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class OnATerminal(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **({"disable": None} | settings))

    return OnATerminal


def config(path: Path) -> dict[str, Any]:
    """The `config.json` in a folder of weights; nothing if it cannot be read."""
    return read_config(path / "config.json")


def read_config(file: Path) -> dict[str, Any]:
    """A JSON file of a folder of weights; empty if it is not there, is no object, or larger than any config is."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_LONGEST_CONFIG + 1)
        value = json.loads(content) if len(content) <= _LONGEST_CONFIG else None
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def model_type(path: Path) -> str | None:
    """What the config in a folder of weights calls its model."""
    return str(declared) if (declared := config(path).get("model_type")) else None


def language_model_type(path: Path) -> str | None:
    """What the config in a folder of weights calls the language model within."""
    try:
        declared = json.loads((path / "config.json").read_text(encoding="utf-8"))["text_config"]["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(declared)


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
