"""Hooks of MkDocs: sections of the README in pages, and links to files that are no pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    source = DOCS / page.file.src_uri

    def section(found: re.Match[str]) -> str:
        text = _section((ROOT / found["file"].lower().replace("readme", "README.md")).read_text(), found["title"])
        return _linked(text, ROOT, source.parent)

    markdown = _linked(markdown, source.parent, source.parent)
    return re.sub(r"^\{\{ (?P<file>\w+): (?P<title>.+) \}\}$", section, markdown, flags=re.MULTILINE)


def _section(text: str, title: str) -> str:
    """What is below a heading of a Markdown file."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0].strip()


def _linked(markdown: str, folder: Path, page_folder: Path) -> str:
    """Links between pages as a page has them; the others as the path in the repository."""

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        if "://" in target or not target:
            return found[0]
        path = (folder / target).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{found[0]} links to {path}, which does not exist")
        if path.is_relative_to(DOCS) and path.suffix == ".md":
            return f"[{found['text']}]({path.relative_to(page_folder)}{'#' + anchor if anchor else ''})"
        text, where = found["text"], path.relative_to(ROOT)
        return f"`{where}`" if text.strip("`") == str(where) else f"{text} (`{where}`)"

    return re.sub(r"(?<!!)\[(?P<text>[^\]\n]+)\]\((?P<target>[^)\s]+)\)", link, markdown)
