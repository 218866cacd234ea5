"""What the packages offer, and that asking for little loads little."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import avalanche_vlm
from avalanche_vlm._lazy import attach, declared

HEAVY = ("torch", "avalanche", "numpy", "open_clip", "matplotlib", "rich")
ROOT = Path(avalanche_vlm.__file__).parent
PACKAGES = sorted(
    ".".join(("avalanche_vlm", *path.parent.relative_to(ROOT).parts))
    for path in ROOT.rglob("__init__.py")
    if "attach(__name__" in path.read_text()
)


def heavy_after(code: str) -> list[str]:
    """Heavy modules that a fresh interpreter has loaded after some code."""
    report = f"\nimport sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True).stdout
    return eval(out.splitlines()[-1])


def test_importing_the_packages_loads_nothing_heavy():
    # All of them at once, in one interpreter: each file is as light as its own imports.
    assert heavy_after("\n".join(f"import {package}" for package in PACKAGES)) == []


def test_the_public_names_are_those_of_the_contract():
    wanted = {"__version__", "benchmarks", "create_vlm", "load", "recipes", "run_experiment", "survey_metrics"}
    assert set(avalanche_vlm.__all__) == wanted


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_that_a_package_offers_is_there(package):
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)
    homes = declared(Path(module.__file__).read_text())
    assert set(homes) == set(module.__all__) - {"__version__"}
    for name, (home, original) in homes.items():
        found = getattr(module, name)
        assert found is getattr(importlib.import_module(home), original)
    # A module of that name would take the name's place as soon as somebody imports it.
    modules = {of.name for of in pkgutil.iter_modules(module.__path__)}
    assert all(homes[name] == (package, name) for name in modules & set(homes))


def test_packages_hand_names_on_in_one_way():
    """A package's face is a docstring, a list of names, or both: no code of its own, no eager import of the house."""
    for path in set(ROOT.rglob("__init__.py")) - {ROOT / "training/recipes/__init__.py"}:
        eager = [line for line in path.read_text().splitlines() if line.startswith("from avalanche_vlm.")]
        assert set(eager) <= {"from avalanche_vlm._lazy import attach"}, path


def test_a_name_that_is_not_there_is_missing_as_from_any_module():
    with pytest.raises(AttributeError, match="module 'avalanche_vlm' has no attribute 'create_vml'"):
        _ = avalanche_vlm.create_vml
    with pytest.raises(ImportError, match="cannot import name 'create_vml'"):
        from avalanche_vlm import create_vml  # noqa: F401


def test_names_are_looked_up_once_and_may_be_renamed(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    face = tmp_path / "shop/__init__.py"
    face.write_text("if TYPE_CHECKING:\n    from shop.till import count as sums\n    from shop import till\n")
    (tmp_path / "shop/till.py").write_text("count = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    face.write_text("TYPE_CHECKING = False\n" + face.read_text())
    import shop

    shop.__getattr__, _ = attach("shop", str(face))
    sums = shop.sums
    del shop.__getattr__
    assert sums is shop.sums is shop.till.count
