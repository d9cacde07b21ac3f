"""A hook of MkDocs: what a page links to outside docs/ is a file of the repository, and is linked to there."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\]\((?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrite the links of a page; raises PluginError for one to a file that is not there."""
    folder = PurePosixPath("docs", page.file.src_uri).parent

    def rewritten(link: re.Match[str]) -> str:
        target = (ROOT / folder / link[1]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return link[0]  # MkDocs looks at these itself
        if not target.exists():
            raise PluginError(f"{page.file.src_uri} links to {link[1]}, which is not there")
        kind = "tree" if target.is_dir() else "blob"
        return f"]({config.repo_url.rstrip('/')}/{kind}/main/{target.relative_to(ROOT).as_posix()}{link[2] or ''})"

    return _LINK.sub(rewritten, markdown)
