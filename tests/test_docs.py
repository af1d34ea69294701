"""The documentation: every block of code in README.md and docs/ runs or compiles, and the site has no broken link.

A block of Python runs after those above it in its file, and after what a comment `<!-- setup ... -->` has, which
readers do not see. One of C or C++ compiles; `<!-- around ... BLOCK ... -->` is what stands around it. Before a block
that can't be run stands `<!-- not run: why -->`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import tensorflow as tf

import tf_symgrad

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PART = re.compile(
    r"^<!-- (?P<what>setup|around|not run:)(?P<comment>.*?)-->$|^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Block:
    page: Path
    line: int
    language: str
    code: str
    around: str = "BLOCK"

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """What is to be run of a page, setup included."""
    text, found, around, skipped = page.read_text(), [], "BLOCK", False
    for part in PART.finditer(text):
        line = text[: part.start()].count("\n") + 2
        if part["what"] == "setup":
            found.append(Block(page, line, "python", part["comment"]))
        elif part["what"] == "around":
            around = part["comment"]
        elif part["what"]:
            assert part["comment"].strip(), f"{page}:{line}: say why it is not run"
            skipped = True
        else:
            if not skipped:
                found.append(Block(page, line, part["language"], part["code"], around))
            around, skipped = "BLOCK", False
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]

RUN = """
import contextlib, io, pathlib, sys
for page in sys.argv[1].split(","):
    namespace, code = {"__name__": "page"}, pathlib.Path(page).read_text()
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, page, "exec"), namespace)
    print(pathlib.Path(page).stem, flush=True)
"""


def test_python(tmp_path: Path) -> None:
    """All pages in one process, each with its own names: TensorFlow is imported once."""
    pages = []
    for page in PAGES:
        code = [b for b in BLOCKS if b.page == page and b.language == "python"]
        if not code:
            continue
        lines = [""] * (code[-1].line + code[-1].code.count("\n") + 1)
        for block in code:  # each at its line, so that a traceback names it
            for i, line in enumerate(block.code.splitlines()):
                lines[block.line - 1 + i] = line
        pages.append(tmp_path / f"{page.stem}.txt")
        pages[-1].write_text("\n".join(lines) + "\n")
    assert len(pages) > 4
    done = subprocess.run(
        [sys.executable, "-c", RUN, ",".join(map(str, pages))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [page.stem for page in pages], done.stderr[-4000:]


COMPILERS = {"c": ["gcc", "-x", "c"], "cpp": ["g++", "-x", "c++", "-std=c++17", "-DNDEBUG"]}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in COMPILERS], ids=str)
def test_c(block: Block) -> None:
    code = block.around.replace("BLOCK", block.code)
    flags = ["-w", "-fsyntax-only", f"-I{tf_symgrad.get_include()}", *tf.sysconfig.get_compile_flags()]
    flags = [flag for flag in flags if block.language == "cpp" or not flag.startswith("--std")]
    done = subprocess.run([*COMPILERS[block.language], *flags, "-"], input=code, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.page}:{block.line}\n{done.stderr}"


def test_every_block_is_run() -> None:
    for block in BLOCKS:
        assert block.language in ("python", *COMPILERS), f"{block}: nothing runs a block of '{block.language}'"


def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES[2:], ids=lambda page: page.name)
def test_the_sites_pages(page: Path) -> None:
    """Sections of the README are found, links lead to what exists, and each page is in the navigation."""
    file = SimpleNamespace(src_uri=page.name)
    text = site().on_page_markdown(page.read_text(), page=SimpleNamespace(file=file))
    assert "{{" not in text.replace("{{ ", "{{") or "```" in text
    assert f": {page.name}\n" in (ROOT / "mkdocs.yml").read_text()
    for target in re.findall(r"\]\((?!http)([^)#\s]+)", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)):
        assert (ROOT / "docs" / target).exists(), f"{page.name}: {target}"
    assert page.name not in ("semantics.md", "comparison.md") or len(text.splitlines()) > 20


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#\s]+)", (ROOT / page).read_text()):
        assert (ROOT / target).exists(), target


def test_versions_agree() -> None:
    assert f"version: {tf_symgrad.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {tf_symgrad.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_reference_has_all_that_is_exported() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    for name in tf_symgrad.__all__:
        assert name == "__version__" or re.search(rf"\b{name}\b", reference), name
