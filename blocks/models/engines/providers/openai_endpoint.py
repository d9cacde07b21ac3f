"""A local system served elsewhere by an OpenAI-compatible endpoint: vLLM, SGLang, `transformers serve`.

The system words the prompts, reads the replies and knows the coordinates; here they travel by HTTP, many at once, with
the retries and limits of the hosted systems.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections import Counter
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from sightflow.blocks.models.contract import ENDPOINT_KEY_VARIABLE, Availability, Prompt
from sightflow.blocks.models.engines.providers.account import Account
from sightflow.blocks.models.engines.providers.enforced_schemas import response_format
from sightflow.blocks.models.engines.providers.image_encoding import EncodedImage, encode_image
from sightflow.blocks.models.engines.providers.messages import ProviderError, ProviderRequest, ProviderResponse
from sightflow.blocks.models.engines.providers.openai_chat import OpenAIChat
from sightflow.blocks.models.engines.providers.transport.bounded_answers import TIMEOUTS, TRUST, is_untrusted, within
from sightflow.blocks.models.hosted_profiles import expected_tokens
from sightflow.blocks.models.image_sizes import Size, fit_within
from sightflow.blocks.models.reply_forms import Choices, JsonSchema, described
from sightflow.blocks.models.video.frame_prompts import frames_at_times
from sightflow.blocks.models.weights import is_folder, weights_digest
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.money.rates import FREE, Rates
from sightflow.schemas.redaction import remember
from sightflow.schemas.vision import ModelRef, VisionRequest

_PATIENCE = 5.0
"""Seconds that an endpoint has to say that it is there."""
_TYPICAL_CELL = 28 * 28
_FRAME_SIDE = 512
"""Longest side of a video's frames, in pixels."""
_MOST_FAILED: Final = 3
"""So many failures of the server with a form, each of them answered without, and it is not sent again."""
_OF_OLDER_MODELS = re.compile(r"max_completion_tokens|\btemperature\b|\bmax_tokens\b")
_PRIVATE_NAMES = (".local", ".internal", ".localhost")


class ServedSystem(Protocol):
    """What is asked of a system that an endpoint serves."""

    @property
    def system(self) -> str: ...
    @property
    def ref(self) -> ModelRef: ...

    endpoint_url: str | None
    endpoint_key: SecretStr | None
    endpoint_timeout: float
    endpoint_videos: str
    max_concurrency: int
    enforce_reply_form: bool
    max_attempts: int
    longest_wait: float
    requests_per_minute: int | None
    tokens_per_minute: int | None

    @property
    def rates(self) -> Rates | None: ...
    @property
    def template_settings(self) -> dict[str, Any]: ...
    @property
    def azure_entra(self) -> bool: ...
    @property
    def api_key_variable(self) -> str | None: ...

    def own_key_variables(self, usual: tuple[str, ...]) -> tuple[str, ...]: ...
    def access_problem(self) -> Availability | None: ...
    def access(self) -> dict[str, Any]: ...
    def generation_settings(self) -> dict[str, Any]: ...
    def sent_size(self, size: Size) -> Size: ...
    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result: ...


class _AtAnEndpoint:
    """A system with open weights as a provider's engine sees one."""

    def __init__(self, served: ServedSystem) -> None:
        self._served = served
        self.enforce_reply_form = served.enforce_reply_form

    @property
    def system(self) -> str:
        return self._served.system

    def shown_size(self, media: Media) -> Size:
        if isinstance(media, DecodedImage):
            return self._served.sent_size(media.pixels.size)
        return self._served.sent_size(fit_within(media.frames[0].size, _FRAME_SIDE))

    def image_tokens(self, size: Size) -> int:
        return size[0] * size[1] // _TYPICAL_CELL

    def expected_reply_tokens(self, enrichment: Enrichment) -> int:
        return expected_tokens(enrichment)

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        return self._served.parse(request, prompt, text)


class OpenAIEndpoint(OpenAIChat):
    """Gives a system's prompts to an endpoint that speaks OpenAI's chat completions.

    Of a video the sampled frames are sent as images, each with its number and time, or by a setting as one video.
    Choices and JSON are enforced by a JSON schema and special tokens asked for where the server can do so; a server
    that knows neither, or not this schema (it answers 400 or 422), is asked without from then on, as is one that fails
    at it (500) again and again; its answers are held to their form all the same.
    """

    enforced_forms = (Choices, JsonSchema)
    forms_of_old_recipes = (Choices,)
    image_detail = "high"

    def __init__(self, system: ServedSystem) -> None:
        super().__init__(_AtAnEndpoint(system), _account_of(system))
        self._served = system
        self.takes_extras: bool | None = None
        """Whether the server knows what the protocol does not say; None until it has shown."""
        self._refused_forms: set[str] = set()
        self._failed_forms = Counter[str]()
        self._reasons = False

    @staticmethod
    def settings_problem(system: ServedSystem) -> str | None:
        return None if system.endpoint_url else "engine: endpoint needs endpoint_url"

    @property
    def is_remote(self) -> bool:
        """An endpoint on this machine or in its private network is not another's."""
        return not is_private_endpoint(self.account.base_url or "")

    def weights_digest(self) -> str:
        ref = self._served.ref
        # What is in this machine's cache of the hub is not what is served.
        return weights_digest(ref) if is_folder(ref.id) else ref.pinned

    def sent_settings(self) -> dict[str, Any]:
        return self._served.generation_settings() | {"template": self._served.template_settings}

    def fingerprint_parts(self) -> dict[str, Any]:
        videos = self._served.endpoint_videos
        return {"engine": "endpoint"} | ({} if videos == "frames" else {"videos": videos})

    def availability(self) -> Availability:
        """Whether a server answers there and takes the key; nothing is asked of the model."""
        import openai

        if self._client is None:
            self.account = _account_of(self._served)  # a key may have come into the environment since
        if problem := self._served.access_problem():
            return problem
        model_id, url, variables = self.account.model_id, self.account.base_url, self.account.key_variables
        if self._served.api_key_variable and not self.account.key.get_secret_value() and not self.account.token:
            return Availability(False, f"there is no key for {url}", f"set {variables[0]}")
        where = f"{model_id} at {url}"
        try:
            page = within(TIMEOUTS * _PATIENCE, self.client(_PATIENCE).models.list)
            listed = [model.id for model in page.data]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            why = f"{url} refuses the key (HTTP {error.status_code})"
            remedy = f"set {variables[0]}, or the endpoint_key of a saved block"
            return Availability(False, why, remedy)
        except openai.APIConnectionError as error:
            if is_untrusted(error):
                return Availability(False, f"{url} shows a certificate that is not trusted here", TRUST)
            remedy = f"check endpoint_url, or start a server: vllm serve {model_id}"
            return Availability(False, f"no server answers at {url}", remedy)
        except Exception:  # it is there, and has no list that can be read: not every server has
            return Availability(True, where)
        if self.account.azure_api_version or self.account.deployment:  # it lists models, and is asked by deployment
            return Availability(True, where)
        unlisted = f"; not among the models it lists: {', '.join(listed[:5])}" if model_id not in listed else ""
        return Availability(True, where + (unlisted if listed else ""))

    def send(self, request: ProviderRequest) -> ProviderResponse | ProviderError:
        import openai

        try:
            return self._send(request)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            # Reasoning models at OpenAI and Azure take neither a temperature nor the older limit, and say so.
            if self._reasons or not _OF_OLDER_MODELS.search(str(error)):
                raise
            self._reasons = True
            return self._send(request)

    def _send(self, request: ProviderRequest) -> ProviderResponse | ProviderError:
        import openai

        *tries, last = self._tries(request)
        for parameters in tries:
            try:
                return self._complete_learning(request, parameters)
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                continue
        # What the request itself is to blame for is raised here.
        return self._complete_learning(request, last)

    def _complete_learning(self, request: ProviderRequest, parameters: dict[str, Any]) -> ProviderResponse:
        """The answer to these parameters, which shows what the server takes; without the form, if it fails at that."""
        import openai

        try:
            return self._learned(request, parameters, self.complete(request, parameters))
        except openai.InternalServerError as error:
            # vLLM fails so at a form that the model's vocabulary cannot spell; any server may by chance.
            if error.status_code != 500 or "response_format" not in parameters:
                raise
            bare = {name: value for name, value in parameters.items() if name != "response_format"}
            answer, form = self.complete(request, bare), described(self.form(request))
            self._failed_forms[form] += 1
            return self._learned(request, bare if self._failed_forms[form] >= _MOST_FAILED else parameters, answer)

    def _tries(self, request: ProviderRequest) -> list[dict[str, Any]]:
        """The parameters that the server may take, the most that it may know first.

        Servers of open weights take all of JSON Schema beside parameters of their own; those of OpenAI's protocol alone
        its strict subset, with an object outside. Either may lack a keyword of this schema.
        """
        plain, form = self.parameters(request), self.form(request)
        extras, known = plain | self._extras(request), described(form) in self._refused_forms
        open_weights = [extras] if known else [extras | response_format(form, strict=False)]
        protocol = [plain]
        if isinstance(form, JsonSchema) and not known:
            open_weights.append(extras)
            if form.schema.get("type") == "object":
                protocol.insert(0, plain | response_format(form))
        if self._whole_video(request.request.media) is not None:
            return open_weights  # whose times are none of the protocol
        if self.takes_extras is not None:
            return open_weights if self.takes_extras else protocol
        return open_weights + protocol

    def _learned(
        self, request: ProviderRequest, parameters: dict[str, Any], answer: ProviderResponse
    ) -> ProviderResponse:
        """The answer to these parameters, which shows what the server takes."""
        self.takes_extras = "extra_body" in parameters
        if "response_format" not in parameters:
            self._refused_forms.add(described(self.form(request)))
        return answer

    def parameters(self, request: ProviderRequest) -> dict[str, Any]:
        if self._reasons:
            return {"max_completion_tokens": request.prompt.max_new_tokens}
        return {"max_tokens": request.prompt.max_new_tokens, "temperature": 0.0}

    def _extras(self, request: ProviderRequest) -> dict[str, Any]:
        """What vLLM and SGLang know and the protocol does not say: boxes may be written in special tokens."""
        body: dict[str, Any] = {
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "repetition_penalty": 1.0,
        }
        if settings := self._served.template_settings:
            body["chat_template_kwargs"] = settings
        if (video := self._whole_video(request.request.media)) is not None:
            # All of the frames are looked at, at the times at which they were taken.
            taken = frames_at_times(video) | {"num_frames": -1, "do_sample_frames": False}
            body["media_io_kwargs"] = {"video": taken}
        return {"extra_body": body}

    # --- a video as one ---

    def _whole_video(self, media: Media) -> DecodedVideo | None:
        """The video, if it is sent as one."""
        return media if isinstance(media, DecodedVideo) and self._served.endpoint_videos == "video_url" else None

    def encode_media(self, request: VisionRequest) -> tuple[EncodedImage, ...]:
        if (video := self._whole_video(request.media)) is None:
            return super().encode_media(request)
        return tuple(encode_image(frame, frame.size) for frame in video.frames)  # resized by the server's processor

    def _messages(self, request: ProviderRequest) -> list[dict[str, Any]]:
        messages = super()._messages(request)
        if self._whole_video(request.request.media) is not None:
            frames = ",".join(image.base64 for image in request.images)
            video = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
            messages[0]["content"] = [video, {"type": "text", "text": request.prompt.text}]
        return messages


def _account_of(system: ServedSystem) -> Account:
    key = system.endpoint_key.get_secret_value().strip() if system.endpoint_key else ""
    (variable,) = system.own_key_variables((ENDPOINT_KEY_VARIABLE,))
    return Account(
        vendor="the endpoint",
        model_id=system.ref.id,
        key=SecretStr(remember(key or os.environ.get(variable, "").strip())),
        key_variables=(variable,),
        base_url=system.endpoint_url,
        timeout=system.endpoint_timeout,
        max_concurrency=system.max_concurrency,
        max_attempts=system.max_attempts,
        longest_wait=system.longest_wait,
        requests_per_minute=system.requests_per_minute,
        tokens_per_minute=system.tokens_per_minute,
        rates=system.rates or FREE,
        successor=system.ref.id,
        **system.access(),
    )


def is_private_endpoint(url: str) -> bool:
    """Whether an endpoint is on this machine or in its private network: by its address, or by a name that no
    public server has (without a dot, or under .local, .internal or .localhost). Names are not looked up.
    """
    host = (urlsplit(url).hostname or "").lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(host) and ("." not in host or host.endswith(_PRIVATE_NAMES))
    return address.is_loopback or address.is_private
