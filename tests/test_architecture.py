"""The rules of the house, computed from the source by ``ast``: neither the package nor a dependency is imported."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "avalanche_vlm"
PACKAGE = ROOT.name

LEVELS = (
    ("units", "errors", "compat"),
    ("_given",),
    ("_registry", "_flat", "_content", "_generators", "_host", "_on_demand", "_processors", "_versions"),
    ("_memory", "_ranks"),
    ("_allocations", "_numbers", "_rows"),
    ("storage",),
    ("weights", "losses"),
    ("memory",),
    ("benchmarks",),
    ("models",),
    ("training",),
    ("evaluation",),
    ("artifacts",),
    ("report", "studies"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""What stands on what: a room imports from itself and from lower levels, never from another room of its own level."""

LIGHT = ("__init__", "_lazy", "catalogue")
"""Top-level modules that name what there is and load nothing until it is asked for: everyone may read them."""

ROOMS = tuple(room for level in LEVELS for room in level if (ROOT / room).is_dir() or (ROOT / f"{room}.py").is_file())

MOST_LINES = 350
MEDIAN_LINES = 130

DEPENDENCIES = {
    "torch": ("nn/modules/module.py", "optim/optimizer.py"),
    "avalanche": ("core.py", "benchmarks/utils/data.py", "training/templates"),
    "open_clip": ("model.py", "transformer.py"),
    "torchmetrics": ("metric.py",),
}
"""Where the classes are defined that ours derive from or reach into."""

PUBLIC_IN_SPITE_OF_THEIR_NAMES = {"_replace", "_asdict", "_fields", "_make", "_exit"}
"""Documented names of ``typing.NamedTuple``, and of ``os``."""


@cache
def sources() -> dict[str, tuple[ast.Module, list[str]]]:
    """Every module by its dotted name: its tree and its lines."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        found[name] = (ast.parse(text), text.splitlines())
    return found


def room_of(module: str) -> str:
    """The package or module directly under the root that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def modules_of(room: str) -> dict[str, ast.Module]:
    """The modules of a room with their trees."""
    return {name: tree for name, (tree, _) in sources().items() if room_of(name) == room}


def imports(module: str) -> Iterator[tuple[str, int]]:
    """What a module imports of the package, anywhere in it (at its top, in functions, for type checkers): the dotted
    name of the module, and the line."""
    known = sources()
    for node in ast.walk(known[module][0]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                is_package = (ROOT.parent / module.replace(".", "/")).is_dir()
                parents = module.split(".")[: None if is_package else -1]
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name in known and name != module)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def listing(offenders: list[str]) -> str:
    """What a failed test says."""
    return f"{len(offenders)} of them:\n" + "\n".join(offenders)


# Imports ------------------------------------------------------------------------------------------------------------


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_imports_are_found_wherever_they_stand():
    found = {target for target, _ in imports(f"{PACKAGE}.models.tiny.shipped")}
    assert f"{PACKAGE}.benchmarks.picturebook.tokenizer" in found  # in a function, and for type checkers
    assert {room_of(target) for target, _ in imports(f"{PACKAGE}.cli")} >= {"errors", "commands"}


def test_every_room_has_a_level():
    assert {room_of(module) for module in sources()} <= {*ROOMS, *LIGHT}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_between_rooms_go_one_way(room):
    level = {name: height for height, names in enumerate(LEVELS) for name in names}
    offenders = []
    for module in modules_of(room):
        for target, line in imports(module):
            other = room_of(target)
            if other not in (room, *LIGHT) and level[other] >= level[room]:
                offenders.append(f"{module}:{line} imports {target}")
    assert not offenders, listing(offenders)


def test_modules_import_each_other_in_no_circle():
    found = circles({module: {target for target, _ in imports(module)} for module in sources()})
    assert not found, listing([" <-> ".join(component) for component in found])


def test_nothing_is_imported_by_star():
    offenders = [
        f"{module}:{node.lineno}"
        for module, (tree, _) in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert not offenders, listing(offenders)


# Size ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_files_are_short(room):
    offenders = [f"{name}: {len(sources()[name][1])} lines" for name in modules_of(room)
                 if len(sources()[name][1]) > MOST_LINES]  # fmt: skip
    assert not offenders, listing(offenders)


def test_files_are_short_in_the_median():
    assert statistics.median(len(lines) for _, lines in sources().values() if lines) <= MEDIAN_LINES


# Private names of dependencies --------------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    """One leading underscore; neither a dunder nor ``_`` alone."""
    return name.startswith("_") and not name.startswith("__") and name != "_"


def is_own(node: ast.expr) -> bool:
    """``self``, ``cls`` or ``super()``."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def private_definitions(tree: ast.AST) -> set[str]:
    """Private names that a module defines: functions, classes, variables, fields, attributes of ``self``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names.add(node.value)  # slots, register_buffer("_mean", ...)
    return {name for name in names if is_private(name)}


@cache
def ours() -> frozenset[str]:
    """Private names that the package defines, ``compat`` aside."""
    trees = (tree for name, (tree, _) in sources().items() if room_of(name) != "compat")
    return frozenset().union(*map(private_definitions, trees))


@cache
def their_files() -> tuple[Path, ...]:
    """The files of :data:`DEPENDENCIES`."""
    files: list[Path] = []
    for package, places in DEPENDENCIES.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        for path in (Path(spec.origin).parent / place for place in places):
            files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return tuple(files)


@cache
def theirs() -> frozenset[str]:
    """Private names of the classes of dependencies that ours derive from or reach into."""
    return frozenset().union(*(private_definitions(ast.parse(file.read_text())) for file in their_files()))


@cache
def bases_of() -> dict[str, set[str]]:
    """The names of every class's bases, ``dependency`` for one of a dependency's."""
    bases: dict[str, set[str]] = {}
    for tree, _ in sources().values():
        imported = {
            alias.asname or alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
            if (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0] in DEPENDENCIES
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                names = [ast.unparse(base).split("[")[0].split(".") for base in node.bases]
                found = {
                    "dependency" if first in imported else last for first, *_, last in ([*n, n[-1]] for n in names)
                }
                bases.setdefault(node.name, set()).update(found)
    return bases


@cache
def derived() -> frozenset[str]:
    """Names of the package's classes that derive from a dependency's, directly or not."""
    foreign = {"dependency"}
    while more := {name for name, above in bases_of().items() if above & foreign} - foreign:
        foreign |= more
    return frozenset(foreign)


def reached(node: ast.AST) -> tuple[ast.expr, str] | None:
    """Object and private attribute, where an expression reaches for one, by a dot or by name."""
    if isinstance(node, ast.Attribute) and is_private(node.attr):
        return node.value, node.attr
    by_name = ("getattr", "hasattr", "setattr", "delattr")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in by_name:
        name = node.args[1] if len(node.args) > 1 else None
        if isinstance(name, ast.Constant) and isinstance(name.value, str) and is_private(name.value):
            return node.args[0], name.value
    return None


def touches(tree: ast.AST, inside: str | None = None) -> Iterator[tuple[int, str]]:
    """Line and wording of each touch of a dependency's private name.

    :param tree: what is looked at, with all that it contains.
    :param inside: name of the innermost class around it.
    """
    for node in ast.iter_child_nodes(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (base + alias.name for alias in node.names):
                if name.split(".")[0] != PACKAGE and any(map(is_private, name.split("."))):
                    yield line, f"imports {name}"
        elif isinstance(node, ast.FunctionDef) and isinstance(tree, ast.ClassDef):
            if tree.name in derived() and node.name in theirs():
                yield line, f"overrides {node.name}"
        elif (found := reached(node)) is not None:
            owner, name = found
            # On self, too: what a base from a dependency calls so is not ours to touch.
            known = inside not in derived() or name not in theirs() if is_own(owner) else name in ours() - theirs()
            if not known and name not in PUBLIC_IN_SPITE_OF_THEIR_NAMES:
                yield line, f"touches {ast.unparse(owner)}.{name}"
        yield from touches(node, node.name if isinstance(node, ast.ClassDef) else inside)


def test_private_names_of_dependencies_are_known():
    assert {"_load_from_state_dict", "_buffers", "_criterion", "_unpack_minibatch", "_datasets"} <= theirs()
    assert {"VLM", "Site", "Interventions", "Estimate"} & derived() == {"VLM", "Site"}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from torch._x import y", ["imports torch._x.y"]),
        ("import torch.utils._y", ["imports torch.utils._y"]),
        ("strategy._criterion(x, y)", ["touches strategy._criterion"]),
        ("getattr(dataset, '_datasets', ())", ["touches dataset._datasets"]),
        ("class VLM:\n  def _load_from_state_dict(self): self._buffers", 
         ["overrides _load_from_state_dict", "touches self._buffers"]),
        ("class Plain:\n  def f(self): return self._buffers", []),
        ("found._replace(x=1)", []),
    ],
)  # fmt: skip
def test_touches_are_found(code, found):
    assert [wording for _, wording in touches(ast.parse(code))] == found


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "compat"])
def test_private_names_of_dependencies_are_used_in_compat_only(room):
    offenders = [f"{module}:{line} {what}" for module, tree in modules_of(room).items() for line, what in touches(tree)]
    assert not offenders, listing(offenders)


# State --------------------------------------------------------------------------------------------------------------

IN_PLACE = {
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft",
    "remove", "setdefault", "update",
}  # fmt: skip
"""Methods that change a container."""

MADE_IN = {"__init__", "__post_init__", "take_over", "load_state_dict", "prepare_load", "set_extra_state"}
"""Methods in which an object is made, by itself or of another, or takes a state."""

ELSEWHERE = {
    "Bank._at_rest": "how the tensors that the state dict has are kept",
    "Bank._blank": "a module without numbers",
    "Bank._lent": "for a forward pass, and of the numbers at rest",
    "Bank._names": "the model's extra state has them, by site",
    "Bank._second": "the model's extra state has them, by site",
    "CalibratedRouter.middles": "a buffer, which a loop over names registers",
    "CalibratedRouter.thresholds": "a buffer, which a loop over names registers",
    "CalibratedPool._weights": "what the batch at hand is answered with",
    "TwoTowers._frozen": "what trains is in training_state, beside the state dict",
    "CompetingClasses._sampled": "within the forward pass of one step",
    "CompetingClasses._warned": "a warning is given once",
    "DualEncoder._whole_texts": "within a block",
    "DualEncoder._width": "asked of the towers once",
    "ExpertSite.balances": "collects the terms of one training step's loss",
    "ExpertSite.lately": "what one step of the optimizer asks for",
    "LoRAAttention.in_proj_weight": "a parameter in the place of a parameter",
    "LoRALinear.weight": "a parameter in the place of a parameter",
    "ProjectionFusionHead._of_prototypes": "from one forward pass in training to its loss",
    "QueryPromptPool.tasks": "the buffer begun says it",
    "Site.active": "the model's extra state has it, by site",
    "TextPrompts._inserted": "within one pass of the text tower",
    "VLM.text_head": "made of the label space, and a cache",
}
"""What modules change and what is not seen to be in their own state dict, and why it need not be."""


def changed(node: ast.ClassDef) -> Iterator[tuple[str, int]]:
    """Attributes of ``self`` that a class assigns, deletes or changes in place after it was made, each with a line."""
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or method.name in MADE_IN:
            continue
        for part in ast.walk(method):
            targets: list[ast.expr] = []
            if isinstance(part, ast.Assign | ast.Delete):
                targets = list(part.targets)
            elif isinstance(part, ast.AugAssign | ast.AnnAssign | ast.For):
                targets = [part.target]
            elif isinstance(part, ast.withitem) and part.optional_vars is not None:
                targets = [part.optional_vars]
            elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in IN_PLACE:
                targets = [part.func.value]
            for target in targets:
                yield from ((name, getattr(part, "lineno", method.lineno)) for name in attributes_of_self(target))


def attributes_of_self(target: ast.expr) -> Iterator[str]:
    """What an assignment to this changes of ``self``: ``self.a``, ``self.a[0]``, each of several."""
    if isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from attributes_of_self(part)
    elif isinstance(target, ast.Starred | ast.Subscript):
        yield from attributes_of_self(target.value)
    elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
        yield target.attr


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Every class of the package with its module."""
    for module, (tree, _) in sources().items():
        yield from ((module, node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def family(name: str, root: str) -> set[str]:
    """A class and the package's classes that it derives from, if one of them is the root; otherwise nothing."""
    found, waiting = set(), [name]
    while waiting:
        found.add(one := waiting.pop())
        waiting += bases_of().get(one, set()) - found
    return found if root in found else set()


def declared_states(node: ast.ClassDef) -> set[str]:
    """The names that the ``states`` of a class literally hold."""
    values = [
        part.value
        for part in node.body
        if isinstance(part, ast.Assign | ast.AnnAssign)
        for target in (part.targets if isinstance(part, ast.Assign) else [part.target])
        if isinstance(target, ast.Name) and target.id == "states" and part.value is not None
    ]
    return {part.value for value in values for part in ast.walk(value) if isinstance(part, ast.Constant)}


def in_state_dict(node: ast.ClassDef) -> set[str]:
    """Attributes of a module that torch puts into its state dict, and those that its extra state is made of."""
    names = set()
    for method in (part for part in node.body if isinstance(part, ast.FunctionDef)):
        extra = method.name in ("get_extra_state", "set_extra_state")
        for part in ast.walk(method):
            if extra and isinstance(part, ast.Attribute) and is_own(part.value):
                names.add(part.attr)
            elif isinstance(part, ast.Call) and ast.unparse(part.func) in (
                "self.register_buffer",
                "self.register_parameter",
            ):
                names.update([part.args[0].value] if isinstance(part.args[0], ast.Constant) else [])
            elif isinstance(part, ast.Assign) and makes_module(part.value):
                names.update(name for target in part.targets for name in attributes_of_self(target))
    return names


def makes_module(value: ast.expr) -> bool:
    """Whether an expression makes a module or parameter, of torch's or of a class of ours, or several of them."""
    if isinstance(value, ast.Tuple):
        return bool(value.elts) and all(map(makes_module, value.elts))
    made = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    return made.startswith("nn.") or made in derived()


def undeclared_changes(root: str, known: Callable[[ast.ClassDef], set[str]]) -> list[str]:
    """What changes in classes that derive from a root, and neither they nor their bases tell of it."""
    told: dict[str, set[str]] = defaultdict(set)
    for _, node in classes():
        told[node.name] |= known(node)
    return [
        f"{module}:{line} {node.name}.{name}"
        for module, node in classes()
        if (above := family(node.name, root))
        for name, line in changed(node)
        if name not in set().union(*(told[one] for one in above))
    ]


def test_changes_after_the_making_are_found():
    code = """class A:
  def __init__(self): self.made = 1
  def step(self):
    self.a, (self.b, *self.c) = 1, (2, 3)
    self.d[0] += 1; del self.e["x"]; self.f.append(1)
    with open(p) as self.g: pass
    for self.h in x: other.i = self.other.j = 1"""
    (node,) = ast.parse(code).body
    assert isinstance(node, ast.ClassDef)
    assert [name for name, _ in sorted(changed(node))] == list("abcdefgh")


def test_declarations_of_state_are_found():
    found = {node.name: declared_states(node) for _, node in classes()}
    assert found["MomentumTeacher"] == {"_tasks", "_previous"} and "_pairs" in found["ErosionProbe"]
    assert "MovingAverageTeacher" in family("MomentumTeacher", "Stateful") and not family("Side", "Stateful")


def test_what_changes_while_a_stream_trains_is_declared():
    offenders = undeclared_changes("Stateful", declared_states)
    assert not offenders, listing(offenders)


def test_what_changes_in_a_module_is_in_its_state_dict():
    found = [(what, what.rpartition(" ")[2]) for what in undeclared_changes("dependency", in_state_dict)]
    models = [(what, name) for what, name in found if what.startswith(f"{PACKAGE}.models")]
    offenders = [what for what, name in models if name not in ELSEWHERE]
    assert not offenders, listing(offenders)
    assert {name for _, name in models} == set(ELSEWHERE)  # no reason outlives its case


# Docstrings ---------------------------------------------------------------------------------------------------------

FRAGMENT = re.compile(
    r"(of|for|in|as|by|with|from|to|on|per|than|at|and|or|but|like|likewise|see|also|ditto|same|the same|the other|"
    r"that|those|whose)(?![-\w])",
    re.IGNORECASE,
)
"""How a phrase begins that leans on another one: with a preposition, a conjunction, a relative pronoun."""

FIELD = re.compile(
    r"^ *:(param [*\w]+|returns?):(.*?)(?=^ *:(?:param|returns?|raises|yields)\b|\n *\n|\Z)", re.DOTALL | re.MULTILINE
)


def documentable(tree: ast.AST) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """What can have a docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_phrase(text: str) -> bool:
    """Whether the description of a parameter stands by itself: three words, and a full stop at its end.

    >>> is_phrase("seed of the draws, 0 or more."), is_phrase("of the draws."), is_phrase("positive.")
    (True, False, False)
    """
    text = " ".join(text.split())
    return len(text.split()) >= 3 and text.endswith((".", ".)")) and not FRAGMENT.match(text.lstrip("`(*"))


def test_phrases_are_told_from_fragments():
    whole = ["seed of the draws, 0 or more.", "logits ``[B, N]``, images in rows.", "number of draws, at least 1."]
    assert all(map(is_phrase, whole))
    assert not any(map(is_phrase, ["of the draws, 0 or more.", "likewise, for texts.", "positive.", "in [0, 1] only."]))
    text = "Do.\n\n:param a: one\n    two three.\n:param b: of it.\n:return: what it is.\n:raises E: never.\n\nMore."
    assert [(name, " ".join(rest.split())) for name, rest in FIELD.findall(text)] == [
        ("param a", "one two three."),
        ("param b", "of it."),
        ("return", "what it is."),
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_parameters_are_described_in_whole_phrases(room):
    offenders = [
        f"{module}:{getattr(node, 'lineno', 1)} :{name}: {' '.join(text.split())}"
        for module, tree in modules_of(room).items()
        for node in documentable(tree)
        for name, text in FIELD.findall(ast.get_docstring(node) or "")
        if not is_phrase(text)
    ]
    assert not offenders, listing(offenders)


@cache
def described() -> frozenset[tuple[str, str]]:
    """Class and method, of what the package's classes describe themselves or a dependency's classes define: who
    overrides one of these need not say again what it is for."""
    found = {("dependency", name) for name in their_methods()}
    for tree, _ in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found |= {(node.name, part.name) for part in node.body
                          if isinstance(part, ast.FunctionDef) and ast.get_docstring(part)}  # fmt: skip
    return frozenset(found)


@cache
def their_methods() -> frozenset[str]:
    """Names of the methods of the dependencies' classes."""
    trees = (ast.parse(file.read_text()) for file in their_files())
    return frozenset(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def ancestors(name: str) -> set[str]:
    """Names of the package's classes that one derives from, of its protocols, which anyone may fulfil, and
    ``dependency`` if one of these is a dependency's."""
    found, waiting = set(), [name]
    while waiting:
        above = bases_of().get(waiting.pop(), set())
        waiting += above - found
        found |= above
    protocols = {known for known, above in bases_of().items() if "Protocol" in above}
    return found | protocols | ({"dependency"} if name in derived() else set())


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_public_has_a_docstring(room):
    offenders = []
    for module, tree in modules_of(room).items():
        if not ast.get_docstring(tree) and tree.body:
            offenders.append(module)
        for node in tree.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                offenders.append(f"{module}:{node.lineno} {node.name}")
            for part in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and not ast.get_docstring(part):
                    overrides = any((above, part.name) in described() for above in ancestors(node.name))
                    accessory = any("overload" in ast.unparse(d) or ".setter" in ast.unparse(d)
                                    for d in part.decorator_list)  # fmt: skip
                    if not overrides and not accessory:
                        offenders.append(f"{module}:{part.lineno} {node.name}.{part.name}")
    assert not offenders, listing(offenders)


# Names --------------------------------------------------------------------------------------------------------------

SHADOWING = {("list", "training"), ("list", "benchmarks"), ("list", "models"), ("list", "memory")}
"""Registries that are called by their module: ``recipes.list()``."""


def is_named_by_users(node: ast.AST, module: str) -> bool:
    """Whether a function bears the name that users write on the command line: a recipe, or a command."""
    if room_of(module) == "commands" and getattr(node, "name", "") == module.rpartition(".")[2]:
        return True
    calls = [call.func for call in getattr(node, "decorator_list", ()) if isinstance(call, ast.Call)]
    return any(isinstance(call, ast.Name) and call.id == "recipe" for call in calls)


def test_a_public_name_has_one_meaning():
    places = defaultdict(set)
    for module, (tree, _) in sources().items():
        for node in tree.body:
            names = []
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            for name in names:
                # Constants are a module's own matter, and every script has a main.
                if not (name.startswith("_") or name.isupper() or name == "main" or is_named_by_users(node, module)):
                    places[name].add(module)
    offenders = [f"{name}: {', '.join(sorted(found))}" for name, found in sorted(places.items()) if len(found) > 1]
    offenders += [f"{name} hides Python's own: {module}" for name, found in places.items() for module in sorted(found)
                  if hasattr(builtins, name) and (name, room_of(module)) not in SHADOWING]  # fmt: skip
    assert not offenders, listing(offenders)


# Tests --------------------------------------------------------------------------------------------------------------


def test_files_of_tests_have_names_of_their_own():
    # Test folders are no packages: of two files with one name pytest would import the first and refuse the second.
    places = defaultdict(list)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        places[path.name].append(str(path.relative_to(ROOT.parent)))
    offenders = [" and ".join(found) for name, found in places.items() if len(found) > 1 and name != "conftest.py"]
    assert not offenders, listing(offenders)


def silences_all(tree: ast.AST) -> list[int]:
    """Lines that silence warnings without saying which: neither a message nor a kind."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = {keyword.arg for keyword in node.keywords} & {"message", "category"}
            rules = node.func.attr in ("simplefilter", "filterwarnings")
            action = node.args[0] if node.args else None
            ignores = isinstance(action, ast.Constant) and action.value == "ignore"
            if rules and ignores and len(node.args) < 2 and not named:
                found.append(node.lineno)
    return found


def test_silencing_is_found():
    assert silences_all(ast.parse("warnings.simplefilter('ignore')\nwarnings.filterwarnings('ignore')")) == [1, 2]
    assert not silences_all(
        ast.parse("w.simplefilter('ignore', UserWarning)\nw.filterwarnings('ignore', message='No')")
    )
    assert not silences_all(ast.parse("warnings.simplefilter('error')"))


@pytest.mark.parametrize("room", ROOMS)
def test_only_warnings_that_are_named_are_silenced(room):
    """A warning of open_clip's on another activation once went unheard, because all were silenced."""
    offenders = [f"{module}:{line}" for module, tree in modules_of(room).items() for line in silences_all(tree)]
    assert not offenders, listing(offenders)
