"""Imports of other libraries that are put off until what they import is used.

``from PACKAGE import NAME`` imports the whole of PACKAGE, also where few callers need NAME. Within
:func:`deferred` such a statement binds a stand-in, which imports the package when it is called or asked for
an attribute.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class StandIn(type):
    """The type of a class that stands for the attribute ``_name`` of the module ``_module``.

    It is a class, so that ``isinstance`` accepts it. As long as the module has not been imported, nothing
    is an instance of a class that it defines, so ``isinstance`` imports nothing.
    """

    _module: str
    _name: str

    def __new__(cls, module: str, name: str) -> Any:
        return super().__new__(cls, name, (), {"_module": module, "_name": name})

    def __init__(cls, module: str, name: str) -> None:
        super().__init__(name, (), {})

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return real(cls)(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):  # asked by the interpreter, such as __wrapped__
            raise AttributeError(name)
        return getattr(real(cls), name)

    def __instancecheck__(cls, instance: Any) -> bool:
        return _imported(cls._module) and isinstance(instance, real(cls))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return _imported(cls._module) and issubclass(subclass, real(cls))


def real(stand_in: StandIn) -> Any:
    """Return what ``stand_in`` stands for; its module is imported."""
    if isinstance(sys.modules.get(stand_in._module), _Module):
        for finder in [found for found in sys.meta_path if isinstance(found, _Finder)]:
            finder.withdraw()
    return getattr(import_module(stand_in._module), stand_in._name)


def _imported(module: str) -> bool:
    return not isinstance(sys.modules.get(module), _Module | None)


class _Module(ModuleType):
    """A module whose attributes are stand-ins."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(self.__name__, name)


class _Finder(MetaPathFinder, Loader):
    """Finds modules of stand-ins for packages and everything in them."""

    def __init__(self, packages: Collection[str]) -> None:
        self.packages = packages
        self.modules = list[ModuleType]()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(f"{fullname}.".startswith(f"{package}.") for package in self.packages):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.modules.append(_Module(spec.name))
        return self.modules[-1]

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""

    def withdraw(self) -> None:
        """Forget the modules, so that the next import of each gives the real one."""
        self.packages = ()
        for module in self.modules:
            parent, _, name = module.__name__.rpartition(".")
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
            if vars(sys.modules.get(parent, object)).get(name) is module:
                delattr(sys.modules[parent], name)
        self.modules.clear()


@contextmanager
def deferred(packages: Collection[str]) -> Iterator[None]:
    """Context in which ``from PACKAGE import NAME`` gives a stand-in for each of ``packages``.

    A package that has been imported already is left as it is. If a stand-in is used within the context,
    its package is imported, and the imports that follow are real. After the context all are.
    """
    finder = _Finder([name for name in packages if name not in sys.modules])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.withdraw()


class _AfterImport(MetaPathFinder, Loader):
    """Loads one module as it is otherwise loaded, and calls a function afterwards."""

    def __init__(self, module: str, call: Callable[[], Any]) -> None:
        self.module, self.call = module, call
        self.loader: Loader | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        assert self.loader is not None
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert self.loader is not None
        self.loader.exec_module(module)
        self.call()


def after_import(module: str, call: Callable[[], Any]) -> None:
    """Call ``call`` once ``module`` has been imported: at once if it has been already."""
    if module in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _AfterImport(module, call))
