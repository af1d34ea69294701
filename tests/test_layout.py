"""The rooms of the engine: what is in them, and who may know whom. An #include is an arrow, and arrows go one way."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "csrc" / "engine"

# Each room may know those before it. The last is the front door, which is no folder.
ROOMS = [
    "body",
    "facts",
    "library",
    "flatten",
    "tensorflow1",
    "read",
    "emit",
    "write",
    "vjp",
    "remat",
    "structure",
    "plan",
    "loops",
    "differentiate",
    "",
]
# Headers that know no room, so that no arrow leads on from them: what rules are written in, what a build results in.
SURFACE = {
    "csrc/rules/compiled.h",
    "csrc/rules/op.h",
    "csrc/rules/rule.h",
    "csrc/rules/words.h",
    "csrc/engine/gradient_function.h",
}
TRAITS = "csrc/rules/traits/"

MAX_FILES = 10
MAX_LINES = {".cc": 400, ".h": 120}
MAX_FUNCTION = 60


def room(path: Path) -> str:
    """The room of a file of the engine."""
    parent = path.relative_to(ENGINE).parent
    return "" if parent == Path(".") else str(parent)


def sources(folder: Path = ENGINE) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in MAX_LINES)


def includes(source: Path) -> list[str]:
    return re.findall(r'^#include "(csrc/[^"]+)"', source.read_text(), re.MULTILINE)


STARTS_NO_FUNCTION = re.compile(
    r"(if|for|while|switch|else|do|return|namespace|class|struct|enum|case|\}|//|#)\b|[}/#]"
)


def functions(text: str) -> list[tuple[str, int]]:
    """Every function that a formatted source defines, by its first line, and how many lines it has."""
    lines, found, begin = text.splitlines(), [], 0
    for i, line in enumerate(lines):
        if line.endswith("{") and (opening := lines[begin]) and "(" in " ".join(lines[begin : i + 1]):
            indent = opening[: len(opening) - len(opening.lstrip())]
            if not STARTS_NO_FUNCTION.match(opening.lstrip()) and "= [" not in opening:
                end = next(k for k in range(i, len(lines)) if lines[k].startswith(indent + "}"))
                found.append((opening.strip(), end - begin + 1))
        if not line or line.endswith((";", "{", "}", ":")) or line.lstrip().startswith(("//", "#")):
            begin = i + 1
    return found


def test_functions_are_found() -> None:
    text = """
class A {
 public:
  A(int x)
      : x_(x) {
    if (x) {
    }
  }

  int f() const { return x_; }
};

absl::Status Long(int a,
                  int b) {
  const auto g = [&] {
  };

  return {};
}
"""
    assert functions(text) == [("A(int x)", 5), ("absl::Status Long(int a,", 7)]


def test_every_room_is_known() -> None:
    assert {room(p) for p in sources()} == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS, ids=[r or "front door" for r in ROOMS])
def test_arrows_go_one_way(name: str) -> None:
    may_know = ROOMS[: ROOMS.index(name) + 1]
    wrong = [
        f"{source.relative_to(ROOT)} includes {included}"
        for source in sources()
        if room(source) == name
        for included in includes(source)
        if included not in SURFACE
        and not included.startswith(TRAITS)
        and (not included.startswith("csrc/engine/") or room(ROOT / included) not in may_know)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_surface_knows_no_room() -> None:
    assert [s for s in sorted(SURFACE) if any("engine" in i for i in includes(ROOT / s))] == []


def test_rules_know_no_engine() -> None:
    wrong = [p.name for p in sources(ROOT / "csrc" / "rules") if any("engine" in i for i in includes(p))]
    assert not wrong


@pytest.mark.parametrize("name", ROOMS, ids=[r or "front door" for r in ROOMS])
def test_a_room_is_small(name: str) -> None:
    files = [p for p in sources() if room(p) == name]
    assert len(files) <= MAX_FILES
    assert {p.name: n for p in files if (n := len(p.read_text().splitlines())) > MAX_LINES[p.suffix]} == {}


def test_every_file_says_what_it_is_for() -> None:
    """A header does, and a source without one."""
    silent = [
        str(p.relative_to(ROOT))
        for p in sources()
        if (p.suffix == ".h" or not p.with_suffix(".h").exists()) and not p.read_text().startswith("// ")
    ]
    assert silent == []


def test_no_function_is_long() -> None:
    long = {name: n for p in sources() for name, n in functions(p.read_text()) if n > MAX_FUNCTION}
    assert long == {}


def test_the_documentation_knows_every_room() -> None:
    sections = (ROOT / "docs" / "architecture.md").read_text().split("\n## ")
    text = next(section for section in sections if section.startswith("Rooms"))
    assert re.findall(r"^\| `(\w+)` ", text, re.MULTILINE) == [r for r in ROOMS if r]


def test_every_source_is_compiled() -> None:
    lists: dict[str, list[str]] = {}
    exec((ROOT / "csrc" / "sources.bzl").read_text(), lists)
    compiled = {str(p.relative_to(ROOT)) for p in sources() if p.suffix == ".cc"}
    assert {s for s in lists["ENGINE"] if s.startswith("csrc/engine/")} == compiled
    assert lists["ENGINE"] == sorted(lists["ENGINE"])
