"""Settings that are a Prefect block as soon as Prefect is asked for one; planning and querying import no Prefect."""

from __future__ import annotations

from functools import cache
from inspect import isclass
from types import new_class
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, Field, HttpUrl

from sightflow.blocks.block_links import LOGO, documentation

if TYPE_CHECKING:
    from prefect.blocks.core import Block


class LazyBlock(BaseModel):
    """What is configured. The class variables say what Prefect shows of the block, in Prefect's own names.

    Where Prefect's UI, its registration or a saved block is concerned, `block_type` gives the class that Prefect knows.
    """

    _block_type_name: ClassVar[str | None] = None
    _block_type_slug: ClassVar[str | None] = None
    _block_schema_capabilities: ClassVar[list[str]] = []
    _logo_url: ClassVar[str] = LOGO
    _documentation_url: ClassVar[str] = documentation("install.md")
    _code_example: ClassVar[str | None] = None

    @classmethod
    def load(cls, name: str) -> Self:
        """The block that is saved by this name, from Prefect's server. Raises ValueError if there is none."""
        return block_type(cls).load(name)  # type: ignore[return-value]

    def save(self, name: str, overwrite: bool = False) -> Any:
        """Save these settings as a block on Prefect's server; return its id."""
        return self._as_block().save(name, overwrite=overwrite)

    def _as_block(self) -> Block:
        given = {name: getattr(self, name) for name in self.model_fields_set}
        nested = {name: value._as_block() for name, value in given.items() if isinstance(value, LazyBlock)}
        return block_type(type(self))(**given | nested)


@cache
def block_type(settings: type[LazyBlock]) -> type[Block]:
    """The Prefect block of some settings: a subclass of both, with the same name, fields and methods.

    It is found again, by pickle as by a user, where the package gives the blocks: in `sightflow.blocks`.
    """
    from prefect.blocks.core import Block

    nested = {
        name: block_type(field.annotation)
        for name, field in settings.model_fields.items()
        if isclass(field.annotation) and issubclass(field.annotation, LazyBlock)
    }
    body: dict[str, Any] = {
        "__module__": __package__,
        "__qualname__": settings.__qualname__,
        "__doc__": settings.__doc__,
        "__annotations__": nested,
        "model_config": settings.model_config,
        "_logo_url": HttpUrl(settings._logo_url),
        "_documentation_url": HttpUrl(settings._documentation_url),
        "load": Block.__dict__["load"],
        "save": Block.__dict__["save"],
    }
    for name, kind in nested.items():
        description = settings.model_fields[name].description
        body[name] = Field(default_factory=kind, description=description)
    return new_class(settings.__name__, (settings, Block), exec_body=lambda namespace: namespace.update(body))
