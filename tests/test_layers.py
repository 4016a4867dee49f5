"""A lower layer never imports an upper one; read from the source, so that imports inside functions count too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import amortvi

# From the bottom up; modules on one line may not import one another.
LAYERS = [
    {"errors", "_version"},
    {"_checks"},
    {"_modes", "_chunks", "arviz_layout", "plates", "sites"},
    {"families", "encoders", "observations", "datasets", "models", "importance"},
    {"latents", "generative"},
    {"marginals", "model_checks"},
    {"prototype"},
    {"guide", "scoring"},
    {"objectives"},
    {"data_check", "engine", "posterior_sources", "weighing"},
    {"resampling"},
    {"training", "posterior", "svi"},
    {"evaluation", "predictive"},
    {"refinement", "priors"},
    {"export", "checkpoint", "usage"},
    {"inference"},
    {"fitting"},
    {"diagnostics"},
    {"comparison"},
    {"plots", "testing"},
    {"report"},
    {"__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOT = Path(amortvi.__file__).parent


def _part(module: str) -> str:
    """The layer's name of a module of the package."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else "__init__"


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "amortvi":
                yield from (f"amortvi.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("amortvi."):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "amortvi")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = _part(".".join(["amortvi", *path.relative_to(ROOT).with_suffix("").parts]))
    assert own in LEVEL, f"{own} has no layer: give it one in tests/test_layers.py and in docs/design.md"
    for imported in _imports(path):
        other = _part(imported)
        if other != own:
            assert LEVEL[other] < LEVEL[own], f"{path.relative_to(ROOT)} imports {imported}, which is not below it"


def test_an_upward_import_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f():\n    from amortvi.inference import AmortizedVI\n    import amortvi.plots\n")
    assert [_part(name) for name in _imports(path)] == ["inference", "plots"]
