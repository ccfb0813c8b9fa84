"""Halves the import time of onnx_ir: defers its import of sympy, which bnfold rarely needs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")
"""Modules that onnx_ir needs only to compute with symbolic dimensions."""


def defer_sympy() -> None:
    """Make onnx_ir import sympy only when it is needed.

    Call this only from the command line: a library should not change how others are imported.
    """
    if "onnx_ir" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Deferred(ModuleType):
    """A placeholder that imports a module on first attribute access."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "onnx_ir":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a module while placeholders stand in for the deferred ones."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        stand_ins = {name: _Deferred(name) for name in _DEFERRED if name not in sys.modules}
        sys.modules.update(stand_ins)
        try:
            self._loader.exec_module(module)
        finally:
            for name, stand_in in stand_ins.items():
                if sys.modules.get(name) is stand_in:
                    del sys.modules[name]
