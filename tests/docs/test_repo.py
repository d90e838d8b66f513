"""The repository as a stranger finds it: it names no package host and no machine, and is true to what it says."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[2]
MADE = {".git", ".venv", ".build", "build", "dist", "data", "node_modules", "__pycache__"}
CACHES = re.compile(r"\.(mypy|ruff|pytest|import_linter)_cache|\.hypothesis|.*\.egg-info")

# Written with brackets, so that this file does not name them either.
REGISTRIES = re.compile("pypi[.]org|python[h]osted|registry[.]npmjs|npmjs[.]org|yarn[p]kg")
RESOLVED = re.compile(r'"resolved": *"[h]ttp|https?://[^ "\']+/[s]imple(/|\b)')
PLACES = re.compile("/[w]ork/|/[r]oot/|/[b]ash_jobs")


def files() -> Iterator[Path]:
    """Every file that is ours; what tools make, and other people's messages, are not."""
    for folder, names, found in os.walk(TOP):
        names[:] = [name for name in names if name not in MADE and not CACHES.fullmatch(name)]
        if Path(folder) == TOP / "tests":
            names[:] = [name for name in names if name != "corpus"]
        yield from (Path(folder) / name for name in found if not name.startswith(".coverage"))


def texts() -> Iterator[tuple[Path, str]]:
    for path in files():
        data = path.read_bytes()
        if b"\0" not in data:
            yield path.relative_to(TOP), data.decode(errors="replace")


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def modules(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (TOP / room).rglob("*.py"))


def test_no_file_names_the_host_of_a_package_registry() -> None:
    assert lines_with(REGISTRIES) == []
    assert lines_with(RESOLVED) == []


def test_no_file_names_the_index_that_this_machine_uses() -> None:
    settings = [os.environ.get(name, "") for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "npm_config_registry")]
    hosts = {urlsplit(url).hostname for setting in settings for url in setting.split()} - {None, "", "localhost"}
    assert not hosts or lines_with(re.compile("|".join(re.escape(str(host)) for host in hosts))) == []


def test_no_file_names_a_path_of_a_developers_machine() -> None:
    assert lines_with(PLACES) == []


def test_constraints_name_versions_and_hashes_and_nothing_else() -> None:
    for line in (TOP / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9.-]+==[^ ]+( ;.*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line


def test_every_dependency_is_pinned_to_a_version_that_it_allows() -> None:
    pinned = dict(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", (TOP / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        asked += extra
    for requirement in map(Requirement, asked):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in constraints.txt: make lock"
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_makefile_offers_its_targets_the_main_ones_first() -> None:
    makefile = (TOP / "Makefile").read_text()
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony.split()[:4] == ["demo", "test", "check", "bench"]
    assert {"fmt", "fuzz", "docs", "clean"} <= set(phony.split())
    for target in phony.split():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_ci_runs_what_the_readme_says() -> None:
    assert "make check test" in (TOP / ".ci" / "run").read_text()
    assert os.access(TOP / ".ci" / "run", os.X_OK)
    assert os.access(TOP / "scripts" / "need", os.X_OK)
    assert "make check test" in (TOP / "README.md").read_text()


def test_contributing_is_under_a_page_and_its_commands_are_there() -> None:
    text = (TOP / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) < 50
    [phony] = re.findall(r"^\.PHONY: (.*)$", (TOP / "Makefile").read_text(), re.MULTILINE)
    named = {
        target for command in re.findall(r"(?:`|^)make ([a-z ]+)", text, re.MULTILINE) for target in command.split()
    }
    assert {"check", "test"} <= named <= set(phony.split())


def test_changelog_begins_with_what_is_unreleased() -> None:
    headings = re.findall(r"^## (.*)$", (TOP / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"


def test_every_module_says_what_it_is() -> None:
    for path in modules("broker", "plugins", "benchmarks", "demo"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(TOP)} has no docstring"


CLAUSE = re.compile(r"\((?:[SCMAWX]-\d+[a-z]?(?:, |…| to )?)+\)")


def test_no_text_for_users_cites_a_clause_of_ours() -> None:
    """The numbers are for who reads the code; who reads an error has not that list."""
    for path in modules("broker", "plugins"):
        tree = ast.parse(path.read_text())
        docs = {id(one.body[0].value) for one in ast.walk(tree)
                if isinstance(one, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
                and isinstance(one.body[0], ast.Expr)}  # fmt: skip
        for one in ast.walk(tree):
            if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in docs:
                assert not CLAUSE.search(one.value), f"{path.relative_to(TOP)}:{one.lineno}"


def test_no_file_asks_to_be_split() -> None:
    long = {str(path.relative_to(TOP)): len(path.read_text().splitlines()) for path in modules("broker", "plugins")}
    assert {path: lines for path, lines in long.items() if lines > 450} == {}


def pages() -> list[Path]:
    return [*sorted(TOP.glob("*.md")), *sorted((TOP / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(TOP)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_index_lists_every_page() -> None:
    index = (TOP / "docs" / "README.md").read_text()
    for page in sorted((TOP / "docs").rglob("*.md")):
        name = str(page.relative_to(TOP / "docs"))
        assert name == "README.md" or f"({name})" in index, f"docs/README.md does not list {name}"
