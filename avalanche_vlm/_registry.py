"""Things that are found by name: shipped ones, those that a user registers, those of other distributions."""

from __future__ import annotations

import pkgutil
import re
import reprlib
import warnings
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, Generic, TypeVar

from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.units import did_you_mean

T = TypeVar("T")


def resolve(where: str) -> Any:
    """What a reference of an entry point's form stands for.

    :param where: a module and a name in it, as in ``"package.module:name"``.
    :return: the member of that module.

    >>> resolve("math:gcd")(12, 18)
    6
    """
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def import_folder(package: str) -> None:
    """Import every module of a package, so that what lies in its folder is registered: a file there is all it takes.

    :param package: the package's dotted name.
    """
    folder = import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        import_module(f"{package}.{module.name}")


class Registry(Generic[T]):
    """Declarations by name. Other distributions bring theirs as entry points, loaded when they are asked for.

    :param what: what one of them is called in a sentence, such as ``"benchmark"``.
    :param kind: the class of a declaration, which has a ``name`` if it is not registered under one.
    :param group: group of entry points; an entry point bears the declaration's name and refers to the declaration.
    :param folder: dotted name of the package whose modules register the shipped ones, each when it is imported; None if
        they are registered already.
    :param first: shipped declarations that come before those of the folder, each with a ``name``.
    """

    def __init__(
        self, what: str, kind: type[T], group: str, folder: str | None = None, first: Iterable[T] = ()
    ) -> None:
        self.what, self.kind, self.group = what, kind, group
        self._registered: dict[str, T] = {getattr(of, "name", ""): of for of in first}
        self._folder = folder
        self._outside: dict[str, Any] | None = None

    @property
    def _known(self) -> dict[str, T]:
        """What is registered, the shipped ones first: whoever looks sees them, and nobody takes their names."""
        if self._folder is not None:
            folder, self._folder = self._folder, None
            import_folder(folder)
            # Some of its modules may have been imported before: the order does not tell which.
            ordered = sorted(self._registered.items(), key=lambda item: getattr(item[1], "__module__", ""))
            self._registered.clear()
            self._registered.update(ordered)
        return self._registered

    def add(self, declaration: T, name: str | None = None) -> T:
        """Register a declaration.

        :param declaration: what is registered. A class that is defined again, as notebooks do it, takes the place of
            what it was.
        :param name: what it is registered as; by default its own ``name``.
        :return: the declaration that was given.
        :raises InputError: if it is no declaration, its name cannot be written on a command line, or the name is taken.
        """
        if name is None:
            name = getattr(declaration, "name", None)
        if not isinstance(declaration, self.kind) or not isinstance(name, str):
            raise InputError(f"a {self.what} is a {self.kind.__name__} with a name, not {reprlib.repr(declaration)}")
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(f"the name of a {self.what} has letters, digits and hyphens, not {name!r}")
        # One of the folder's own registers itself while the folder is imported, or before.
        own = self._folder is not None and getattr(declaration, "__module__", "").startswith(f"{self._folder}.")
        known = self._registered if own else self._known
        if name in known and not _is_defined_again(known[name], declaration):
            raise InputError(f"a {self.what} called {name!r} is registered already{_place_of(known[name])}")
        known[name] = declaration
        return declaration

    def names(self) -> list[str]:
        """The names, those of other distributions last. Nothing is loaded.

        :raises InputError: if two distributions claim one name.
        """
        return [*self._known, *(name for name in self._entry_points() if name not in self._known)]

    def get(self, name: str) -> T:
        """The declaration of that name.

        :param name: a registered name, or that of an entry point, which is loaded now.
        :return: the declaration that was found.
        :raises InputError: if there is none, or what should bring it does not load.
        """
        if not isinstance(name, str) or name not in self._known:
            outside = self._entry_points()
            if not isinstance(name, str) or name not in outside:
                known = self.names()
                near = did_you_mean(name, known)
                raise InputError(f"no {self.what} is called {name!r}{near}; there are {', '.join(known)}")
            self._known[name] = self._loaded(outside[name])
        return self._known[name]

    def __iter__(self) -> Iterator[T]:
        """All declarations; one of another distribution that does not load is left out with a warning."""
        for name in self.names():
            try:
                yield self.get(name)
            except InputError as error:
                warnings.warn(f"{error}; it is left out", VLMWarning, stacklevel=2)

    def _entry_points(self) -> dict[str, Any]:
        if self._outside is None:
            from importlib.metadata import entry_points

            found: dict[str, Any] = {}
            for point in entry_points(group=self.group):
                taken = self._known.get(point.name) or found.get(point.name)
                if taken is not None:
                    raise InputError(f"two {self.what}s are called {point.name!r}: {point.value} and {taken}")
                found[point.name] = point
            self._outside = found
        return self._outside

    def _loaded(self, point: Any) -> T:
        where = f"the {self.what} {point.name!r} ({point.value}, entry point of {self.group})"
        try:
            declaration = point.load()
        except Exception as error:  # code of another distribution fails in ways of its own
            raise InputError(f"{where} does not load: {type(error).__name__}: {error}") from error
        if not isinstance(declaration, self.kind):
            raise InputError(f"{where} is no {self.kind.__name__} but a {type(declaration).__name__}")
        if (own := getattr(declaration, "name", point.name)) != point.name:
            raise InputError(f"{where} calls itself {own!r}")
        return declaration


def _place_of(known: Any) -> str:
    """The end of a sentence that says where a class is from; nothing for what is no class."""
    return f": {known.__module__}.{known.__qualname__}" if isinstance(known, type) else ""


def _is_defined_again(old: Any, new: Any) -> bool:
    """Whether two are one class: of the same place in the source."""
    both = isinstance(old, type) and isinstance(new, type)
    return both and (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)
