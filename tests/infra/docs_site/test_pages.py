"""What the pages say is so: every command parses, every link leads somewhere, the columns are those of the schemas."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from sightflow.infra.docs_site.columns_page import PAGE, columns_page
from tests.command_line import app

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line of a block that is a command of ours."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if line.lstrip().startswith(("sightflow ", ".venv/bin/")) else []
            if words and words[0].rpartition("/")[2] == "sightflow":
                yield words[1:]


def parse(words: list[str]) -> None:
    """Take a command apart as the command line does; raises its usage error."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("sightflow", list(words), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


ALL = [(page.relative_to(ROOT).as_posix(), words) for page in PAGES for words in commands(page.read_text())]


def test_there_are_commands() -> None:
    assert len(ALL) > 40


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda each: each if isinstance(each, str) else shlex.join(each))
def test_a_command_on_a_page_is_one(page: str, words: list[str]) -> None:
    if words == ["--version"] or "--install-completion" in words:
        return
    parse(words)


def test_a_wrong_command_would_be_seen() -> None:
    for wrong in (["run", "spec.yaml", "--no-such"], ["no-such"], ["catalog", "diff", "URI"]):
        with pytest.raises(Exception, match=r"(?i)no such|missing") as raised:
            parse(wrong)
        assert type(raised.value).__module__.startswith(("typer", "click"))


def test_the_page_of_columns_says_what_the_schemas_say() -> None:
    assert PAGE.read_text() == columns_page(), "make it anew: python -m sightflow.infra.docs_site.columns_page"


def test_the_site_is_built_without_a_warning_and_asks_nothing_of_another_host(tmp_path: Path) -> None:
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))
    loaded = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(https?:)?//|<link\b[^>]*stylesheet[^>]*https?://"""
    )
    assert [page.name for page in pages if loaded.search(page.read_text())] == []


def test_every_page_is_in_the_navigation() -> None:
    listed = str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert [page.name for page in (ROOT / "docs").rglob("*.md") if page.name not in listed] == []
