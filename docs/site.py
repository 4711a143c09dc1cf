"""Pages of the site at the places that they have in the tree, so that their links hold here as they do there.

MkDocs takes one folder of pages; README, CHANGELOG and the tables that pages refer to stand outside of it.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "docs/*.md",
    "benchmarks/README.md",
    "benchmarks/results/**/*",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of a site: the theme's, and the pages of the tree."""
    found = [each for each in files if not each.is_documentation_page() and each.src_uri != "site.py"]
    for path in (path for pattern in PAGES for path in sorted(ROOT.glob(pattern)) if path.is_file()):
        place = path.relative_to(ROOT).as_posix()
        found.append(File.generated(config, place, abs_src_path=str(path)))
    return Files(found)
