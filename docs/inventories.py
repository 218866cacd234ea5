"""Write ``docs/inventories``: where the names of other projects that our reference refers to are documented.

A build of the site asks no network. Each inventory holds the names that we use, on the pages where their own projects
document them; ``python docs/inventories.py`` writes them anew after a name was added here. A name is imported, so that
none can be listed that there is not, and it is listed as well under the path of the module that defines it, which is
what signatures show.

open_clip has no pages of its API, and so no inventory.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

FOLDER = Path(__file__).parent / "inventories"

PROJECTS = {
    "python": ("https://docs.python.org/3/", "Python"),
    "numpy": ("https://numpy.org/doc/stable/", "NumPy"),
    "torch": ("https://docs.pytorch.org/docs/stable/", "PyTorch"),
    "avalanche": ("https://avalanche-api.continualai.org/en/latest/", "Avalanche"),
}
"""Where the pages of a project lie, and what it is called."""

OWN = "generated/{}.html"
"""The page that a name has to itself, as autosummary makes them."""

PAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "python": {
        "library/abc.html": ("abc.ABC",),
        "library/argparse.html": (
            "argparse.Action",
            "argparse.ArgumentParser",
            "argparse.ArgumentTypeError",
            "argparse.Namespace",
        ),
        "library/collections.abc.html": tuple(
            f"collections.abc.{name}"
            for name in (
                "Awaitable",
                "Callable",
                "Collection",
                "Container",
                "Generator",
                "Hashable",
                "Iterable",
                "Iterator",
                "Mapping",
                "Sequence",
            )
        ),
        "library/contextlib.html": ("contextlib.AbstractContextManager",),
        "library/os.html": ("os.stat_result",),
        "library/pathlib.html": ("pathlib.Path",),
        "library/pickle.html": ("pickle.UnpicklingError",),
        "library/socket.html": ("socket.socket",),
        "library/zipfile.html": ("zipfile.BadZipFile",),
    },
    "numpy": {
        "reference/" + OWN: ("numpy.dtype", "numpy.ndarray"),
        "reference/random/generator.html": ("numpy.random.Generator",),
    },
    "torch": {
        OWN: (
            "torch.Event",
            "torch.Generator",
            "torch.Tensor.to",
            "torch.nn.CrossEntropyLoss",
            "torch.nn.Linear",
            "torch.nn.Module",
            "torch.nn.ModuleList",
            "torch.nn.MultiheadAttention",
            "torch.nn.parameter.Parameter",
        ),
        "data.html": ("torch.utils.data.DataLoader", "torch.utils.data.Dataset"),
        "optim.html": ("torch.optim.Optimizer",),
        "size.html": ("torch.Size",),
        "tensor_attributes.html": ("torch.device", "torch.dtype"),
        "tensors.html": ("torch.Tensor",),
    },
    "avalanche": {
        OWN: (
            "avalanche.benchmarks.scenarios.CLScenario",
            "avalanche.benchmarks.utils.AvalancheDataset",
            "avalanche.core.SupervisedPlugin",
            "avalanche.evaluation.metric_definitions.PluginMetric",
            "avalanche.logging.BaseLogger",
            "avalanche.logging.TensorboardLogger",
            "avalanche.logging.WandBLogger",
            "avalanche.models.MultiTaskModule",
            "avalanche.training.Naive",
        ),
    },
}
"""Names as their projects document them, by page."""


HOMES = {"pathlib.Path": "pathlib.Path"}
"""Names whose home differs with the version of Python."""


def home(name: str) -> str:
    """The path of the module that defines a name, and the name there.

    :param name: a class or a function.
    """
    if name in HOMES:
        return HOMES[name]
    what = resolve_name(name)
    return f"{what.__module__}.{what.__qualname__}" if isinstance(what, type) else name


def role_of(what: Any) -> str:
    """What Sphinx calls a thing.

    :param what: an exception, another class, or a method.
    """
    if not isinstance(what, type):
        return "method"
    return "exception" if issubclass(what, BaseException) else "class"


def lines(project: str) -> list[str]:
    """An inventory's lines, one a name.

    :param project: name of the project.
    """
    listed = {}
    for page, names in PAGES[project].items():
        for name in names:
            role = role_of(resolve_name(name))
            for known in {name, home(name)}:
                listed[known] = f"{known} py:{role} 1 {page.format(name)}#{name} -"
    return [listed[name] for name in sorted(listed)]


def inventory(project: str) -> bytes:
    """A file as Sphinx reads it.

    :param project: name of the project.
    """
    head = ["# Sphinx inventory version 2", f"# Project: {PROJECTS[project][1]}", "# Version: "]
    head.append("# The remainder of this file is compressed using zlib.")
    content = "".join(f"{line}\n" for line in lines(project))
    return "".join(f"{line}\n" for line in head).encode() + zlib.compress(content.encode(), 9)


def main() -> None:
    """Write all inventories."""
    FOLDER.mkdir(exist_ok=True)
    for project in PROJECTS:
        (FOLDER / f"{project}.inv").write_bytes(inventory(project))


if __name__ == "__main__":
    main()
