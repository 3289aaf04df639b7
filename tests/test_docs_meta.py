"""What is said about the code agrees with it: tables, docstrings, the changelog, the recipes of CONTRIBUTING."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import is_whole

import ostinato
import ostinato.tensor as T
from ostinato.ops import OPS
from ostinato.rewrite.engine import PASSES
from support import unmeasured

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)


def load_registries() -> ModuleType:
    """The extension that generates tables for the documentation."""
    spec = importlib.util.spec_from_file_location("registries", DOCS / "_extensions" / "registries.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


registries = load_registries()
REFERENCE = {p.stem: registries.expand(p.read_text("utf-8")) for p in (DOCS / "reference").glob("*.md")}


# ---- the reference --------------------------------------------------------------------------------


def test_every_op_has_a_row_that_says_what_it_does() -> None:
    """Where it does not: fill in the field doc of the op, or the docstring of the function that builds it."""
    rows = re.findall(r"^\| `([^`\[]+)(?:\[[^`]*\])?` \| (?:yes|no) \| (.*) \|$", REFERENCE["ops"], re.M)
    assert sorted(name for name, _ in rows) == sorted(OPS)
    assert [name for name, text in rows if not text.strip()] == []


@pytest.mark.parametrize("name", sorted(PASSES))
def test_every_rewrite_has_a_before_and_an_after(name: str) -> None:
    doc = inspect.getdoc(inspect.getmodule(PASSES[name])) or ""
    assert doc.startswith(f"{name}: ")
    assert "\nbefore:  " in doc
    assert "\nafter:   " in doc
    assert f"## {name}\n" in REFERENCE["rewrites"]


def test_every_flag_is_in_the_table_with_its_default() -> None:
    flags = dict(line.split("    # ")[0].split(" = ") for line in str(type(ostinato.config)({})).splitlines())
    assert flags.keys() >= {"floatX", "mode", "verify"}
    for name, default in flags.items():
        value = default.replace("'", '"')
        assert re.search(rf"^\| `{name}` \| `{re.escape(value)}` \|", REFERENCE["config"], re.M), name


PUBLIC = registries.public(T)
HELPERS = {"all_constructors", "constant_value"}  # imported by the module, used by nobody else


def test_every_public_name_is_in_the_reference() -> None:
    text = REFERENCE["api"] + REFERENCE["tensor"]
    missing = [n for n in ostinato.__all__ if not re.search(rf"ostinato\.{n}\b", text)]
    assert missing == ["__version__"]
    described = {n for n in PUBLIC if re.search(rf"ostinato(\.tensor)?\.{n}\b|`{n}`", text)}
    plurals = {n for n in PUBLIC if re.sub(r"s$", "", n.replace("matrices", "matrix")) in described}
    assert sorted(PUBLIC.keys() - described - plurals - HELPERS) == []


# ---- docstrings -----------------------------------------------------------------------------------


def test_everything_public_has_a_docstring() -> None:
    found: dict[str, Any] = {f"ostinato.{n}": getattr(ostinato, n) for n in ostinato.__all__ if n != "__version__"}
    found |= {f"ostinato.tensor.{n}": v for n, v in PUBLIC.items()}
    for cls in (ostinato.TensorVariable, ostinato.SharedVariable, ostinato.Function):
        members = {n: v for n, v in vars(cls).items() if not n.startswith("_")}
        found |= {f"{cls.__name__}.{n}": v for n, v in members.items() if callable(v) or isinstance(v, property)}
    assert [name for name, value in found.items() if not inspect.getdoc(value)] == []


def test_every_module_says_what_lives_there() -> None:
    package = Path(ostinato.__file__).parent
    files = sorted(package.rglob("*.py"))  # read, not imported: a backend may need what is not installed
    assert files
    silent = [f for f in files if not ast.get_docstring(ast.parse(f.read_text("utf-8")))]
    assert [str(f.relative_to(package)) for f in silent] == []


# ---- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_every_page_is_listed_in_the_index_of_its_section(page: Path) -> None:
    if page.stem == "index":
        page = page.parent
    index = page.parent / "index.md"
    if page != DOCS:
        entry = f"{page.name}/index" if page.is_dir() else page.stem
        assert f"\n{entry}\n" in index.read_text("utf-8")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_is_named_exists(name: str) -> None:
    """Relative links, paths of the repository in backticks, and targets of make."""
    text = (ROOT / name).read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    paths = re.findall(r"`((?:src|docs|tests|benchmarks|examples)/[\w./-]*)`", text)
    assert [p for p in links + paths if not (ROOT / p).exists()] == []
    targets = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(re.findall(r"`[^`]*`|^\$.*", text, re.M))))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)] == []


def test_the_changelog_has_a_section_for_this_version() -> None:
    release = re.sub(r"\.?(dev|a|b|rc)\d*$", "", ostinato.__version__)
    headings = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0].split()[0] == release
    assert ("unreleased" in headings[0]) == (release != ostinato.__version__)


def test_the_printed_graph_of_the_guide_is_what_is_printed() -> None:
    page = (DOCS / "how-to" / "debug-a-loop.md").read_text("utf-8")
    shown = re.search(r"```text\n(graph.*?)```", page, re.S)
    x, a = T.vector("x"), T.scalar("a")
    h, _ = ostinato.scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.constant(0.0), name="network")
    printed = io.StringIO()
    ostinato.printing.debugprint(h, printed)
    assert shown is not None
    assert shown[1] == printed.getvalue()


# ---- the recipes of CONTRIBUTING ------------------------------------------------------------------

CHECK_RECIPES = """
import numpy as np
import ostinato
import ostinato.tensor as T

x, y, z = T.dvector("x"), T.dvector("y"), T.fvector("z")
assert T.hypot(x, y).eval({x: [3.0], y: [4.0]}) == [5.0]

back = ostinato.function([z], T.cast(T.cast(z, "float64"), "float32") + z, mode="counting")
assert back(np.float32([1.5])) == [3.0]
assert "cast" not in str(back.graph)

from ostinato.backends.counting import compiled

assert compiled["add"] == 1
"""


def put(path: Path, anchor: str, new: str) -> None:
    """Write `new` in the place of a text that stands in a file once."""
    text = path.read_text("utf-8")
    assert text.count(anchor) == 1, f"the recipe speaks of {anchor!r} in {path.name}"
    path.write_text(text.replace(anchor, new), "utf-8")


def follow_recipes(package: Path) -> None:
    """Do to a copy of the package what CONTRIBUTING says."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    op, rewrite, backend, line = re.findall(r"```python\n(.*?)```", text, re.S)

    family = package / "ops" / "elementwise.py"
    put(family, "__all__ = [", '__all__ = [\n    "hypot",')
    family.write_text(family.read_text("utf-8") + op, "utf-8")

    (package / "rewrite" / "cast_back.py").write_text(rewrite, "utf-8")
    start = "PIPELINE: tuple[Pass, ...] = ("
    put(
        package / "rewrite" / "pipeline.py",
        start,
        f"from ostinato.rewrite.cast_back import cast_back\n{start}cast_back, ",
    )

    (package / "backends" / "counting.py").write_text(backend, "utf-8")
    start = "BACKENDS: dict[str, str] = {"
    put(package / "backends" / "__init__.py", start, f"{start}\n{line}")


def test_data_files_that_were_not_written_to_their_end_are_told(tmp_path: Path) -> None:
    whole = tmp_path / ".coverage.whole"
    with closing(sqlite3.connect(whole)) as database:
        database.execute("create table coverage_schema (version integer)")
        database.execute("create table bits (numbits blob)")
        database.executemany("insert into bits values (?)", [(bytes(100),)] * 500)
        database.commit()
    assert is_whole(whole)
    data = whole.read_bytes()
    for n in (0, 50, 1000, 4096, len(data) - 4096):
        part = tmp_path / f".coverage.{n}"
        part.write_bytes(data[:n])
        assert not is_whole(part)
    assert not is_whole(tmp_path / ".coverage.nothing")


def test_the_recipes_of_contributing_work(tmp_path: Path) -> None:
    """In a copy of the package, and with nothing else touched; the generated tests find the new op."""
    package = tmp_path / "src" / "ostinato"
    shutil.copytree(ROOT / "src" / "ostinato", package, ignore=shutil.ignore_patterns("__pycache__"))
    follow_recipes(package)
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    paths = os.pathsep.join([str(tmp_path / "src"), str(tmp_path / "tests")])
    environment = unmeasured() | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*args: str) -> str:
        done = subprocess.run([sys.executable, *args], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-c", CHECK_RECIPES)
    report = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_ops.py", "-k", "hypot")
    assert re.search(r"^[1-9]\d* passed", report, re.M)
