"""The shape of the house, read off the source: layers, imports, docstrings, sizes, the public names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import paramtree as pt

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "paramtree"

# a module imports only from layers before its own; those on one line may not import each other
LAYERS = [
    ["errors", "letters"],
    ["display"],
    ["names"],
    ["bits"],
    ["nodes"],
    ["select"],
    ["tree"],
    ["ties", "stack", "init"],
    ["draw"],
    ["run"],
    ["scope"],
    ["module"],
    ["wrap", "positions", "nn"],
    ["bind"],
    ["renaming"],
    ["checkpoint"],
    ["compare"],
    ["train"],
    ["report"],
    ["sharding"],
    ["__init__"],
    ["tour"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, line in enumerate(LAYERS) for name in line}
OPTIONAL = {
    "safetensors",
    "torch",
    "h5py",
    "orbax",
    "tensorstore",
    "optax",
    "matplotlib",
}  # imported in functions
SLOW = {
    "unicodedata",
    "jax.extend",
    "doctest",
}  # what few need, and all would wait for

FILES = sorted(SOURCE.rglob("*.py"))


def part_of(path):
    """The part of the house a file belongs to: a module, or a package as a whole."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imports_of(path):
    """Yield (dotted name, line, inside a function) of all imports in a file."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node) for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef) for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}" if node.module == "paramtree" else node.module
                yield dotted, node.lineno, id(node) in inside


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_from_the_layers_before_its_own(path):
    part = part_of(path)
    assert part in RANK, f"{part} has no layer: add it to LAYERS"
    for dotted, line, _ in imports_of(path):
        if dotted.split(".")[0] == "paramtree":
            other = dotted.split(".")[1]
            assert other == part or RANK[other] < RANK[part], (
                f"{path.name}:{line}: {part} must not import {other}"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_optional_packages_are_imported_inside_functions(path):
    late = {dotted for dotted, _, inside in imports_of(path) if inside}
    assert {dotted.split(".")[0] for dotted in late - SLOW} <= OPTIONAL


def imported_by(statement):
    code = f"import sys, jax, numpy; old = set(sys.modules); {statement}; print(*(set(sys.modules) - old))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in out.stdout.split()}


def test_importing_the_package_imports_nothing_beyond_jax_and_numpy():
    beyond = (
        imported_by("import paramtree")
        - set(sys.stdlib_module_names)
        - {"jax", "jaxlib", "numpy", "paramtree"}
    )
    assert beyond == set()


def defined(tree):
    """Yield (name, node) of the module, its classes and its functions, methods of public classes included."""
    yield "", tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from (
                    (f"{node.name}.{each.name}", each)
                    for each in node.body
                    if isinstance(each, ast.FunctionDef)
                )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    bare = [
        name
        for name, node in defined(tree)
        if not any(part.startswith("_") for part in name.split(".")) and not ast.get_docstring(node)
    ]
    assert bare == []


def raised_kinds(node):
    """The exception classes that a function raises itself."""
    calls = [
        each.exc.func
        for each in ast.walk(node)
        if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call)
    ]
    return {each.id for each in calls if isinstance(each, ast.Name)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_public_function_says_what_it_raises(path):
    for name, node in defined(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and not any(part.startswith("_") for part in name.split(".")):
            documented = ast.get_docstring(node) or ""
            silent = {kind for kind in raised_kinds(node) if kind not in documented} - {"AttributeError"}
            assert not silent, f"{path.name}: {name} raises {silent} and does not say so"


def test_no_suppressions():
    marks = ("# noqa", "# type: ignore", "# pyright:", "TODO", "FIXME", "XXX")
    found = [f"{path.name}: {mark}" for path in FILES for mark in marks if mark in path.read_text()]
    assert found == []


def test_files_and_functions_are_small():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 800, path
        for name, node in defined(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                start = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
                assert node.end_lineno - start < 45, f"{path.name}: {name} is too long to read at once"


def test_public_names_exist_once_and_are_all_there():
    assert len(pt.__all__) == len(set(pt.__all__))
    missing = [name for name in pt.__all__ if not hasattr(pt, name)]
    assert missing == []
    held = {name: value for name, value in vars(pt).items() if not name.startswith("_")}
    kinds = [value for value in held.values() if isinstance(value, type) or callable(value)]
    listed = [getattr(pt, name) for name in pt.__all__]
    assert [kind for kind in kinds if kind not in listed] == []


def test_the_readme_names_everything_public():
    readme = (ROOT / "README.md").read_text()
    assert [name for name in pt.__all__ if f"`{name}`" not in readme and f"{name}(" not in readme] == []


def test_the_version_is_one():
    assert f'version = "{pt.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_public_text_names_no_machine():
    texts = [*FILES, *(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.md"), ROOT / "pyproject.toml"]
    needle = "/" + "work/"
    assert [str(path) for path in texts if needle in path.read_text()] == []
