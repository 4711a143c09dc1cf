"""benchmarks/README.md has a row for each script and study, and every result can be found from a page."""

import re
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
README = BENCHMARKS / "README.md"
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), README, *(BENCHMARKS / "results").rglob("*.md")]


def named() -> set[str]:
    """The files that the page names."""
    return set(re.findall(r"`(?:cuda/)?(\w+\.(?:py|sh|yaml))`", README.read_text()))


def linked(page: Path) -> list[Path]:
    """The files that a page links to."""
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    return [(page.parent / target).resolve() for target in targets if "://" not in target]


def test_each_script_and_study_has_a_row() -> None:
    scripts = [*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("*.sh"), *(BENCHMARKS / "studies").glob("*.yaml")]
    folders = [path.parent.name for path in BENCHMARKS.glob("*/__main__.py")]
    assert sorted(path.name for path in scripts if path.name not in named()) == []
    assert [name for name in folders if f"| `{name}` " not in README.read_text()] == []


def test_each_result_is_linked_from_a_page() -> None:
    found = set(chain.from_iterable(map(linked, PAGES)))
    results = [path / "README.md" if path.is_dir() else path for path in (BENCHMARKS / "results").iterdir()]
    assert sorted(str(path.relative_to(ROOT)) for path in results if path.resolve() not in found) == []


def test_what_the_page_names_is_there() -> None:
    there = {path.name for path in BENCHMARKS.rglob("*")}
    assert sorted(named() - there) == []
    assert [path for path in linked(README) if not path.exists()] == []
