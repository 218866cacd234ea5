"""What is installed: syntax that every supported Python reads, and a wheel that has all that the package opens."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "avalanche_vlm"
PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13))


@pytest.fixture(scope="module")
def config():
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


def test_the_versions_that_are_named_are_those_that_are_checked(config):
    said = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    assert said == [f"{major}.{minor}" for major, minor in PYTHONS]
    assert config["options"]["python_requires"] == f">={said[0]}"
    project = (ROOT / "pyproject.toml").read_text()
    assert 'target-version = "py310"' in project and 'python_version = "3.10"' in project


def test_every_file_is_in_the_syntax_of_the_first_version():
    for folder in ("avalanche_vlm", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            ast.parse(path.read_text(), str(path), feature_version=PYTHONS[0])


COMPILES = """
import pathlib, sys, warnings
warnings.simplefilter("error")
for path in pathlib.Path(sys.argv[1]).rglob("*.py"):
    compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
"""


def interpreter(version: tuple[int, int]) -> str | None:
    """A Python of this version, on the path or among those of pyenv."""
    name = "python{}.{}".format(*version)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    others = sorted(map(str, pyenv.glob("versions/{}.{}.*/bin/python".format(*version))))
    # What pyenv puts on the path is there for versions that it does not start, too.
    for one in filter(None, [sys.executable if sys.version_info[:2] == version else None, shutil.which(name), *others]):
        if not subprocess.run([one, "-c", ""], capture_output=True).returncode:
            return one
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS, ids=str)
def test_every_version_that_this_machine_has_compiles_it_without_a_warning(version):
    own = interpreter(version)
    if own is None:
        pytest.skip("there is no Python {}.{}".format(*version))
    done = subprocess.run([own, "-c", COMPILES, str(PACKAGE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_later_syntax_is_noticed():
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n case 1: pass", feature_version=(3, 9))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources, built without a network; its names and metadata."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 68:
        pytest.skip("setuptools is older than the build needs")
    home = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(PACKAGE, home / "avalanche_vlm", ignore=ignored)
    (home / "tests").mkdir()
    (home / "tests/test_nothing.py").write_text("")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (home / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        told = next(name for name in names if name.endswith(".dist-info/METADATA"))
        entry = next(name for name in names if name.endswith(".dist-info/entry_points.txt"))
        return names, message_from_string(file.read(told).decode()), file.read(entry).decode()


@pytest.mark.slow
def test_the_wheel_has_every_file_that_the_package_opens(wheel):
    names = set(wheel[0])
    sources = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith(".pyc")
    }
    assert sources <= names, sorted(sources - names)
    for kind in ("py.typed", "catalogue.json", "models/tiny/", "report/page/templates/", "published/", "datasets/"):
        there = [name for name in names if name.startswith(f"avalanche_vlm/{kind}") or f"/{kind}" in name]
        assert any(not name.endswith(".py") for name in there), kind
    others = {name for name in names if not name.startswith(("avalanche_vlm/", "avalanche_vlm-"))}
    assert not others, others


@pytest.mark.slow
def test_what_the_wheel_says_of_itself(wheel, config):
    _, told, entry = wheel
    assert told["Requires-Python"] == ">=3.10" and "avalanche-vlm = avalanche_vlm.cli:main" in entry
    lines = told.get_all("Requires-Dist")
    always = [re.match(r"[\w.-]+", line)[0].lower() for line in lines if "extra ==" not in line]
    assert "torch" in always and "pyyaml" in always
    for tool in ("pytest", "ruff", "mypy", "hypothesis", "sphinx", "pyside6", "transformers", "diffusers"):
        assert tool not in always
    assert set(told.get_all("Provides-Extra")) == set(config["options.extras_require"])


def test_what_is_cited_and_asked_of_reporters_can_be_read():
    from avalanche_vlm import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__ and citation["license"] == "MIT" and citation["cff-version"] == "1.2.0"
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 2
    for form in forms:
        told = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= set(told) and all("label" in of["attributes"] for of in told["body"])
