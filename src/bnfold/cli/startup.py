"""Lets onnx_ir load in half the time: it imports sympy, which bnfold hardly ever makes it use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")
"""The modules that onnx_ir needs only to compute with symbolic dimensions."""


def defer_sympy() -> None:
    """Let onnx_ir, when it is imported, import sympy only when it computes with it.

    For a process of bnfold's own; a library does not meddle with how others are imported.
    """
    if "onnx_ir" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Deferred(ModuleType):
    """Stands for a module until something in it is needed."""

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
    """Loads a module while others are only stood for."""

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
