"""Pandera's words for a table, whose pandera model is made when it is first asked for anything but its columns.

Pandera takes longer to import than a run with nothing to do takes, and who plans or queries needs only the names and
types of columns. `DataFrameModel`, `Field`, `dataframe_check` and `PolarsData` are written as pandera's own are.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import get_annotations
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, get_args, get_origin

import polars as pl

if TYPE_CHECKING:
    import pandera.polars as pandera
    from pandera.polars import PolarsData

__all__ = ["DataFrameModel", "Field", "PolarsData", "dataframe_check"]

Check = TypeVar("Check", bound=Callable[..., Any])

_PLAIN: dict[Any, pl.DataType] = {str: pl.String(), int: pl.Int64(), float: pl.Float64(), bool: pl.Boolean()}
_OURS = frozenset({"__dict__", "__weakref__", "columns", "_pandera_model"})


class _Declared:
    """The keywords of one column's `pandera.Field`."""

    def __init__(self, keywords: dict[str, Any]) -> None:
        self.keywords = keywords


def Field(**keywords: Any) -> Any:  # noqa: N802, as pandera writes it
    """What holds of a column, in the keywords of `pandera.Field`."""
    return _Declared(keywords)


def dataframe_check(name: str) -> Callable[[Check], Check]:
    """Mark a method as a check of the whole table, as `pandera.dataframe_check` does."""

    def mark(check: Check) -> Check:
        check._check_name = name  # type: ignore[attr-defined]
        return check

    return mark


class DataFrameModel:
    """The one definition of a table's columns, as of `pandera.polars.DataFrameModel`.

    `columns`: the type and the description of each, in their order; the types are those that pandera finds. A model may
    be another one's subclass, with its columns and checks.
    """

    Config: ClassVar[type]
    columns: ClassVar[dict[str, tuple[pl.DataType, str]]]
    _pandera_model: ClassVar[type[pandera.DataFrameModel] | None] = None

    def __init_subclass__(cls) -> None:
        types = get_annotations(cls, eval_str=True)
        cls._pandera_model = None
        cls.columns = getattr(cls, "columns", {}) | {
            name: (_polars_type(types[name]), declared.keywords.get("description") or "")
            for name, declared in vars(cls).items()
            if isinstance(declared, _Declared)
        }

    @classmethod
    def validate(cls, frame: pl.DataFrame, lazy: bool = False) -> pl.DataFrame:
        """The frame, checked. Raises pandera's SchemaError; if `lazy`, SchemaErrors with all that is wrong."""
        return cls._in_pandera().validate(frame, lazy=lazy)

    @classmethod
    def to_schema(cls) -> pandera.DataFrameSchema:
        """Pandera's schema of the table."""
        return cls._in_pandera().to_schema()

    @classmethod
    def _in_pandera(cls) -> type[pandera.DataFrameModel]:
        if cls._pandera_model is None:
            import pandera.polars as pandera

            # A copy: another thread that makes the model too puts it among these meanwhile.
            body = {name: _in_pandera(value) for name, value in [*vars(cls).items()] if name not in _OURS}
            (base,) = cls.__bases__
            above = pandera.DataFrameModel
            if issubclass(base, DataFrameModel) and base is not DataFrameModel:
                above = base._in_pandera()
            cls._pandera_model = type(cls.__name__, (above,), body)
        return cls._pandera_model


def _polars_type(annotation: Any) -> pl.DataType:
    if get_origin(annotation) is Annotated:
        kind, *parameters = get_args(annotation)
        made: pl.DataType = kind(*parameters)
        return made
    return _PLAIN[annotation]


def _in_pandera(value: Any) -> Any:
    """What stands in the body of a model, in pandera's own words."""
    import pandera.polars as pandera

    if isinstance(value, _Declared):
        return pandera.Field(**value.keywords)
    name = getattr(value, "_check_name", None)
    return pandera.dataframe_check(name=name)(value) if name else value
