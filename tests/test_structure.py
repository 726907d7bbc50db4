"""How the package is laid out: no folder imports upward, no two files have one name, the guide names every folder."""

import ast
from collections import defaultdict
from pathlib import Path

import aindex

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aindex"
LAYERS = (
    "edits",
    "data",
    "descriptors",
    "index",
    "activation",
    "evaluation",
    "collection",
    "matching",
    "release",
    "callbacks",
    "commands",
)
"""From the bottom to the top: a folder imports from those before it."""


def imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "aindex":
            yield from (f"aindex.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aindex."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("aindex."))


def test_no_folder_imports_upward():
    upward = []
    for file in PACKAGE.rglob("*.py"):
        folder = file.relative_to(PACKAGE).parts[0]
        for module in imports(file):
            other = module.split(".")[1]
            if folder in LAYERS and other in LAYERS and LAYERS.index(other) > LAYERS.index(folder):
                upward.append(f"{file.relative_to(ROOT)} imports {module}")
    assert upward == []


def test_every_folder_has_its_place():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(LAYERS)
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [folder for folder in LAYERS if f"`aindex/{folder}/`" not in guide] == []


def test_no_two_files_have_one_name():
    places = defaultdict(list)
    for file in PACKAGE.rglob("*.py"):
        places[file.name].append(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1 and name != "__init__.py"} == {}


def test_no_folder_hides_a_function_of_the_package():
    """An imported folder becomes the package's attribute, in place of a function that is found at its first use."""
    assert {path.name for path in PACKAGE.iterdir()} & set(aindex.__all__) == set()
