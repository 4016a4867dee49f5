"""The architecture: a folder imports only from folders below it, and no module reads another's private names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import amortvi

# From the bottom up. A new folder needs a place here and a row in docs/design.md.
LAYERS = [
    "errors",
    "_util",
    "data",
    "model",
    "families",
    "encoders",
    "importance",
    "posterior",
    "objectives",
    "compile",
    "training",
    "io",
    "inference",
    "diagnostics",
    "comparison",
    "plots",
    "testing",
]
ROOT = Path(amortvi.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
MOST_LINES = 300
MOST_FILES = 12


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _layer(module: str) -> str:
    """Return the layer of a module of the package, such as ``"data"`` for ``"amortvi.data.batch"``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(path: Path) -> Iterator[str]:
    """Iterate over the modules of the package that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "amortvi":
                yield from (f"amortvi.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("amortvi."):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "amortvi")


def _private_accesses(path: Path) -> Iterator[str]:
    """Iterate over the private names of the package that a file takes from another object or module."""
    tree = ast.parse(path.read_text())
    assigned = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    }
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)} | assigned
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("amortvi"):
            yield from (alias.name for alias in node.names if _is_private(alias.name) and alias.name != "_util")
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in defined:
            foreign = not isinstance(node.value, ast.Name) or node.value.id not in ("self", "cls")
            if foreign and node.attr in PRIVATE_NAMES:
                yield node.attr


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _private_names() -> set[str]:
    """Return every private attribute and function that the package defines."""
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                found.add(node.attr)
    return {name for name in found if _is_private(name)}


PRIVATE_NAMES = _private_names()


def test_every_entry_of_the_package_is_a_layer() -> None:
    entries = {path.stem for path in ROOT.iterdir() if not path.name.startswith("__") and path.name != "py.typed"}
    assert entries == set(LAYERS)
    assert len(LAYERS) <= 17


def test_imports_go_down() -> None:
    upward = []
    for path in MODULES:
        own = _layer(".".join(["amortvi", *path.relative_to(ROOT).with_suffix("").parts]))
        if own == "__init__":
            continue  # the top of the package may import everything
        below = [own, *LAYERS[: LAYERS.index(own)]]
        upward += [f"{_name(path)} imports {name}" for name in _imports(path) if _layer(name) not in below]
    assert upward == []


def test_no_module_uses_the_private_names_of_another() -> None:
    assert [f"{_name(path)}: {name}" for path in MODULES for name in _private_accesses(path)] == []


def test_files_are_short() -> None:
    assert [_name(path) for path in MODULES if len(path.read_text().splitlines()) > MOST_LINES] == []


def test_folders_are_small_and_say_what_they_are_for() -> None:
    folders = {path.parent for path in MODULES}
    assert [_name(folder) for folder in folders if len(list(folder.glob("[!_]*.py"))) > MOST_FILES] == []
    silent = [
        _name(folder) for folder in folders if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    ]
    assert silent == []


def test_tests_mirror_the_package() -> None:
    """All but `errors`, a single module, have a folder of tests."""
    tests = Path(__file__).parent
    assert [each for each in LAYERS[1:] if not list((tests / each).rglob("test_*.py"))] == []


def test_violations_are_detected(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(
        "def f(vi):\n"
        "    from amortvi.inference import AmortizedVI\n"
        "    import amortvi.plots\n"
        "    from amortvi.data.chunks import _SizeRecorder\n"
        "    return vi._trainer\n"
    )
    assert [_layer(name) for name in _imports(path)] == ["inference", "plots", "data"]
    assert sorted(_private_accesses(path)) == ["_SizeRecorder", "_trainer"]
