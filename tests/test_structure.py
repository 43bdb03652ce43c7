"""The structure: imports run one way, modules and functions stay small, the protocol stands alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import ROOT

PACKAGE = ROOT / "pushapp"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)
# From the top down: a module imports only from its own part and from parts below.
PARTS = [
    ["__main__"],
    ["__init__"],
    ["application", "pytest_plugin"],
    ["cli", "testing"],
    ["data_commands", "message_commands", "worker_command"],
    ["imports"],
    ["dashboard", "demo"],
    ["web"],
    ["diagnostics"],
    ["sending"],
    ["bulk_storage", "userdata"],
    ["renewals", "channels"],
    ["subscriptions"],
    ["keys"],
    ["models"],
    ["schema"],
    ["extensions"],
    ["config"],
    ["changes"],
    ["signals"],
    ["statements"],
    ["database", "instance", "setting_checks"],
    ["standard_webhooks"],
    ["webpush"],
    ["circuit_breaker", "dialects"],
]
RANK = {name: rank for rank, names in enumerate(PARTS) for name in names}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a module imports, as names such as `web.views`."""
    package = ["pushapp", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            for alias in node.names:
                candidate = Path(ROOT, *base, alias.name)
                is_module = candidate.with_suffix(".py").exists() or candidate.is_dir()
                yield ".".join([*base, alias.name] if is_module else base).removeprefix("pushapp.")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_from_its_own_part_and_from_below(path: Path) -> None:
    own = name_of(path).split(".")[0]
    for imported in imports(path):
        part = imported.split(".")[0]
        assert part == own or RANK[part] > RANK[own], f"{name_of(path)} imports {imported}"


def test_no_imports_are_circular() -> None:
    graph = {name_of(path): set(imports(path)) - {name_of(path)} for path in MODULES}
    while graph:
        leaves = {name for name, imported in graph.items() if not imported & set(graph)}
        assert leaves, f"circular imports among {sorted(graph)}"
        graph = {name: imported for name, imported in graph.items() if name not in leaves}


@pytest.mark.parametrize("path", sorted((PACKAGE / "webpush").glob("*.py")), ids=name_of)
def test_the_protocol_needs_no_flask_and_no_database(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            assert not name.startswith(("flask", "sqlalchemy", "procrastinate", "psycopg")), name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_at_most_300_lines_and_a_function_fits_a_screen(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_every_module_is_in_the_architecture_page() -> None:
    page = (PACKAGE / "README.md").read_text()
    table = page[page.index("| part |") : page.index("Imports run down")]
    for path in MODULES:
        if path.name != "__init__.py" or path.parent == PACKAGE:
            assert f"`{path.name}`" in table or f"`{path.stem}`" in table, name_of(path)


def test_web_processes_import_neither_the_queues_library_nor_libcurl() -> None:
    code = (
        "import sys, pushapp; pushapp.create_app; pushapp.send;"
        " print({'procrastinate', 'pycurl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
