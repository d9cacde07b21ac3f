"""docs/columns.md, made from the schemas: every column of every table, its type and what it means.

python -m sightflow.infra.docs_site.columns_page        # writes the page anew
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from sightflow.blocks.catalog.catalog import MODELS
from sightflow.blocks.catalog.table_writes import delta_schema

PAGE = Path(__file__).resolve().parents[2] / "docs" / "columns.md"
_INTRODUCTION = """\
# Which columns are there?

Every table of a [catalog](catalog.md), with the types that Delta Lake gives them. The tables themselves say the same in
their comments (`DESCRIBE` in Spark and Trino). This page is written from the schemas:
`python -m sightflow.infra.docs_site.columns_page`.
"""


def columns_page() -> str:
    """The page as Markdown."""
    parts = [_INTRODUCTION]
    for name, model in MODELS.items():
        said = inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        checked = model.to_schema().columns
        rows = [
            f"| `{field.name}` | {_type(field.type)} | {'yes' if checked[field.name].nullable else ''} "
            f"| {_comment(field)} |"
            for field in delta_schema(model).fields
        ]
        head = ["| column | type | may be null | means |", "| --- | --- | --- | --- |"]
        parts.append("\n".join([f"## {name}", "", said, "", *head, *rows]) + "\n")
    return "\n".join(parts)


def _comment(field: Any) -> str:
    return str(field.metadata.get("comment", "")).replace("|", "\\|").replace("<", "&lt;")


def _type(kind: Any) -> str:
    """A type of Delta in words: `list of struct(label: string, x_min: double)`."""
    if hasattr(kind, "element_type"):
        return f"list of {_type(kind.element_type)}"
    if hasattr(kind, "fields"):
        return f"struct({', '.join(f'{field.name}: {_type(field.type)}' for field in kind.fields)})"
    return str(getattr(kind, "type", kind))


if __name__ == "__main__":
    PAGE.write_text(columns_page())
