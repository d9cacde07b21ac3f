"""A local system served elsewhere by an OpenAI-compatible endpoint: vLLM, SGLang, `transformers serve`.

The system's own adapter words the prompts, reads the replies and knows the coordinates; here they travel by
HTTP, many at once, with the retries and limits of the hosted systems.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pydantic import PrivateAttr

from sightflow.blocks.models.engines.providers.image_encoding import Size
from sightflow.blocks.models.engines.providers.messages import (
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    bare_choice,
)
from sightflow.blocks.models.systems.gpt_4o import GPT4o, OpenAIProfile, read_completion
from sightflow.blocks.models.vision_model import Availability, Prompt
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.geometry import ImageTransform
from sightflow.schemas.vision import ModelRef, VisionRequest

if TYPE_CHECKING:
    import openai

    from sightflow.blocks.models.local_model import LocalVisionModel

KEY_VARIABLE = "SIGHTFLOW_ENDPOINT_KEY"
_PATIENCE = 5.0
"""Seconds that an endpoint has to say that it is there."""
_TYPICAL_CELL = 28 * 28
_PRIVATE_NAMES = (".local", ".internal", ".localhost")


class EndpointEngine(GPT4o):
    """Puts an adapter's prompts to an endpoint that speaks OpenAI's chat completions.

    Of a video the sampled frames are sent as pictures, each with its number and time. Choices are enforced by
    a JSON schema and special tokens asked for where the server can do so; a server that knows neither (it
    answers 400 or 422) is asked without from then on, and its answers are held to the choices all the same.
    """

    _block_type_name = "Sightflow endpoint engine"
    _block_type_slug = "sightflow-endpoint-engine"

    vendor = "the endpoint"
    key_variables = (KEY_VARIABLE,)
    retired = {}

    _adapter: Any = PrivateAttr()
    _takes_extras: bool | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, adapter: LocalVisionModel) -> EndpointEngine:
        """The engine of an adapter whose settings name an endpoint."""
        engine = cls(
            id=adapter.ref.id,
            revision=adapter.ref.revision,
            api_key=adapter.endpoint_key,
            base_url=adapter.endpoint_url,
            timeout=adapter.endpoint_timeout,
            max_concurrency=adapter.max_concurrency,
            max_new_tokens=adapter.max_new_tokens,
        )
        engine._adapter = adapter
        return engine

    # --- the adapter's part ---------------------------------------------------------------------

    @property
    def adapter(self) -> LocalVisionModel:
        return cast("LocalVisionModel", self._adapter)

    @property
    def system(self) -> str:
        return self.adapter.system

    @property
    def ref(self) -> ModelRef:
        return self.adapter.ref

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        return self.adapter.prompts(enrichment, media_kind)

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        return self.adapter.parse(request, prompt, bare_choice(text) if prompt.choices else text)

    def image_transform(self, request: VisionRequest) -> ImageTransform:
        return self.adapter.image_transform(request)

    def sent_size(self, size: Size) -> Size:
        return self.adapter.sent_size(size)

    # --- the endpoint's part --------------------------------------------------------------------

    @property
    def profile(self) -> OpenAIProfile:
        return OpenAIProfile(0, 0, successor=self.ref.id)

    @property
    def prices(self) -> tuple[float, float]:
        return (0.0, 0.0)

    def image_tokens(self, size: Size) -> int:
        return size[0] * size[1] // _TYPICAL_CELL

    def availability(self) -> Availability:
        """Whether a server answers there and takes the key; nothing is asked of the model."""
        import openai

        where = f"{self.ref.id} at {self.base_url}"
        try:
            listed = [model.id for model in self.connect(self._key(), _PATIENCE).models.list()]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            why = f"{self.base_url} refuses the key (HTTP {error.status_code})"
            remedy = f"set {KEY_VARIABLE}, or the endpoint_key of a saved block"
            return Availability(False, why, remedy)
        except openai.APIConnectionError:
            remedy = f"check endpoint_url, or start a server: vllm serve {self.ref.id}"
            return Availability(False, f"no server answers at {self.base_url}", remedy)
        except Exception:  # it is there, and has no list that can be read: not every server has
            return Availability(True, where)
        unlisted = f"; not among the models it lists: {', '.join(listed[:5])}" if self.ref.id not in listed else ""
        return Availability(True, where + (unlisted if listed else ""))

    def connect(self, key: str, timeout: float | None = None) -> openai.OpenAI:
        import openai

        # The SDK insists on a key; servers without one take any.
        return openai.OpenAI(
            api_key=key or "none", base_url=self.base_url, timeout=timeout or self.timeout, max_retries=0
        )

    def send(self, question: ProviderRequest) -> ProviderResponse | ProviderError:
        import openai

        extras = self._extras(question.prompt)
        if not extras or self._takes_extras is False:
            return self._sent(question, {})
        try:
            answer = self._sent(question, extras)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            if self._takes_extras:
                raise
            answer = self._sent(question, {})  # what the request itself is to blame for is raised here again
            self._takes_extras = False
            return answer
        self._takes_extras = True
        return answer

    def _extras(self, prompt: Prompt) -> dict[str, Any]:
        """What vLLM and SGLang know and the protocol does not say: boxes may be written in special tokens."""
        extras: dict[str, Any] = {
            "extra_body": {
                "skip_special_tokens": False,
                "spaces_between_special_tokens": False,
                "repetition_penalty": 1.0,
            }
        }
        if prompt.choices:
            answer = {"type": "string", "enum": list(prompt.choices)}
            schema = {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}
            reply_format = {"name": "reply", "schema": schema | {"additionalProperties": False}, "strict": True}
            extras["response_format"] = {"type": "json_schema", "json_schema": reply_format}
        return extras

    def _sent(self, question: ProviderRequest, extras: dict[str, Any]) -> ProviderResponse:
        response = self._client.chat.completions.with_raw_response.create(
            model=self.ref.id,
            messages=self._messages(question),
            max_tokens=question.prompt.max_new_tokens,
            temperature=0.0,
            **extras,
        )
        return read_completion(response.parse(), dict(response.headers), response.text)


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
