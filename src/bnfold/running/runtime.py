"""The only module that imports onnxruntime."""

from __future__ import annotations

import contextlib
import enum
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.arrays import Array
from bnfold.errors import LoadError, ProviderError, SessionError, UsageError, parameter
from bnfold.running.environment import available_threads, installed_runtimes
from bnfold.running.installation import INSTALL, diagnosis, mending
from bnfold.running.isolation import isolated
from bnfold.running.libraries import registered

Feeds = Mapping[str, Array]
"""Arrays by input name."""


PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


"""How the message of an error begins."""


class Level(enum.Enum):
    """The optimization level at which onnxruntime loads a model."""

    DISABLED = "disabled"
    ALL = "all"


@dataclass(frozen=True)
class ValueSpec:
    """An input or output of a session. A dimension is a size, a name, or None if unknown."""

    name: str
    type: str
    """In onnxruntime's notation: ``tensor(float)``."""
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The numpy type of its elements; None if numpy does not support it."""
        return _NUMPY_TYPES.get(self.type)

    @property
    def is_single(self) -> bool:
        """Whether it has one element, whatever the input is."""
        return all(size == 1 for size in self.shape)


_NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(string)": np.dtype(np.object_),
    **{f"tensor({n})": np.dtype(n) for n in ("int8", "int16", "int32", "int64")},
    **{f"tensor({n})": np.dtype(n) for n in ("uint8", "uint16", "uint32", "uint64")},
}


class Session:
    """A model that onnxruntime loads, from a path or bytes, on exactly the requested provider.

    Its threads do not spin while waiting, which would take cores from other sessions. `tf32` lets a
    CUDA device round the operands of float32 products to 10 bits, onnxruntime's default. `profile`
    is the beginning of the path of a file into which onnxruntime writes how long each node takes.

    Raises:
        ProviderError: if the provider is not available, or onnxruntime used another.
        SessionError: if onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model: Path | bytes,
        provider: str,
        level: Level,
        threads: int | None = None,
        *,
        tf32: bool = False,
        initializers: Feeds | None = None,
        profile: Path | None = None,
    ) -> None:
        runtime = _import_runtime()
        require_provider(provider)
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # errors are raised and reported in one line
        options.intra_op_num_threads = threads or available_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        levels = runtime.GraphOptimizationLevel
        options.graph_optimization_level = {
            Level.DISABLED: levels.ORT_DISABLE_ALL,
            Level.ALL: levels.ORT_ENABLE_ALL,
        }[level]
        self._initializers = {  # onnxruntime reads them for as long as the session is there
            name: runtime.OrtValue.ortvalue_from_numpy(content)
            for name, content in (initializers or {}).items()
        }
        for name, content in self._initializers.items():
            options.add_initializer(name, content)
        for library in registered():
            options.register_custom_ops_library(library)
        settings = {"use_tf32": str(int(tf32))} if provider == "cuda" else {}
        providers = [(PROVIDERS[provider], settings)]
        make = partial(_make_session, runtime, options, providers)
        try:
            self._session = _from_source(make, model)
        except Exception as error:  # onnxruntime's exceptions have no common base
            message = _one_line(error, model)
            raise LoadError(f"onnxruntime cannot load the model: {message}") from error
        if PROVIDERS[provider] not in self._session.get_providers():
            raise ProviderError(diagnosis(provider, "onnxruntime fell back to the CPU"))
        self._provider = provider
        self.inputs = [_spec(argument) for argument in self._session.get_inputs()]
        self.outputs = [_spec(argument) for argument in self._session.get_outputs()]
        overridable = self._session.get_overridable_initializers()
        self.overridable = [_spec(argument) for argument in overridable]

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Compute all outputs, by name.

        Raises:
            SessionError: if onnxruntime cannot run the model on these inputs.
        """
        names = [output.name for output in self.outputs]
        try:
            results = self._session.run(names, dict(feeds))
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise SessionError(f"onnxruntime cannot run the model: {_one_line(error)}") from error
        return dict(zip(names, results, strict=True))

    def prepared_run(self, feeds: Feeds) -> Callable[[], object]:
        """Return a function for timing that computes all outputs from `feeds` once.

        On a device, inputs are copied beforehand, outputs stay there, and the function waits until
        all are computed. It does not catch onnxruntime's exceptions: call `run` first.
        """
        if self._provider == "cpu":
            names = [output.name for output in self.outputs]
            content = dict(feeds)
            return lambda: self._session.run(names, content)
        binding = self._session.io_binding()
        for name, array in feeds.items():
            on_device = _import_runtime().OrtValue.ortvalue_from_numpy(array, self._provider)
            binding.bind_ortvalue_input(name, on_device)
        for output in self.outputs:
            binding.bind_output(output.name, self._provider)

        def run() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run

    def end_profiling(self) -> Path:
        """Return the complete file of a session with a profile."""
        return Path(self._session.end_profiling())

    @property
    def placement(self) -> dict[str, int] | None:
        """The number of nodes on each provider, if onnxruntime reports it (1.24 and later)."""
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            return None
        counts: Counter[str] = Counter()
        for part in self._session.get_provider_graph_assignment_info():
            counts[part.ep_name] += len(part.get_nodes())
        return dict(counts)


def require_provider(provider: str) -> None:
    """Require that the provider is available.

    Raises:
        ProviderError: if not, with the diagnosis.
    """
    runtime = _import_runtime()
    if PROVIDERS[provider] in runtime.get_available_providers():
        if provider == "cuda":
            _require_device(runtime)
        return
    raise ProviderError(diagnosis(provider, f"onnxruntime has no {PROVIDERS[provider]}"))


def require_libraries() -> None:
    """Require that onnxruntime takes the libraries of custom operators.

    Raises:
        UsageError: if one does not exist.
        ProviderError: if onnxruntime refuses it.
    """
    runtime = _import_runtime()
    for library in registered():
        if not os.path.isfile(library):
            raise UsageError(
                f"{parameter('custom_ops')} {library} does not exist, or is not a file"
            )
        try:  # in a process of its own: what a library does when it is loaded may end it
            isolated(partial(_register, runtime, library), lambda _: None)
        except Exception as error:
            raise ProviderError(
                f"{parameter('custom_ops')} {library}: onnxruntime cannot use it: "
                f"{_one_line(error)}"
            ) from error


def _register(runtime: Any, library: str, _: object) -> None:
    runtime.SessionOptions().register_custom_ops_library(library)


def _require_device(runtime: Any) -> None:
    """Require that a session really runs on CUDA: that onnxruntime lists it does not say so.

    Raises:
        ProviderError: if not, with the diagnosis.
    """
    if hasattr(runtime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            runtime.preload_dlls()
    if "cuda" in _usable:
        return
    try:  # in a process of its own: one that has initialized CUDA cannot fork any more
        used = isolated(lambda _: _providers_of_session(runtime), lambda _: None)
    except Exception as error:
        raise ProviderError(diagnosis("cuda", _one_line(error))) from error
    if PROVIDERS["cuda"] not in used:
        raise ProviderError(diagnosis("cuda", "onnxruntime falls back to the CPU"))
    _usable.add("cuda")


_usable: set[str] = set()


def trust_provider(provider: str) -> None:
    """Do not probe the device of a provider: the process that this one works for has done so."""
    _usable.add(provider)


def _providers_of_session(runtime: Any) -> list[str]:
    """Return the providers that a session on CUDA really has."""
    import onnx.helper

    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("x", "y")]
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "probe", values[:1], values[1:])
    opset = onnx.helper.make_opsetid("", 13)
    model = onnx.helper.make_model(graph, ir_version=7, opset_imports=[opset])
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = _make_session(runtime, options, [PROVIDERS["cuda"]], model.SerializeToString())
    return list(session.get_providers())


def _import_runtime() -> Any:
    """Import onnxruntime, without its telemetry and without lines of its own on the terminal.

    Raises:
        ProviderError: if it is not installed, or broken; the message says how to mend it.
    """
    # Its telemetry writes to the terminal and to HOME, in a thread that forks do not have.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if not installed_runtimes():
            raise ProviderError(
                f"onnxruntime is not installed: {INSTALL['cpu']}, or {INSTALL['cuda']}"
            ) from error
        raise ProviderError(
            f"onnxruntime is installed but broken: {_one_line(error)}; {mending()}"
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):  # a folder alone is a package for Python, too
        folder = ", ".join(getattr(onnxruntime, "__path__", ["?"]))
        raise ProviderError(
            f"onnxruntime is incomplete: {folder} holds only what an uninstalled package left; "
            f"remove that folder; {mending()}"
        )
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def _make_session(runtime: Any, options: Any, providers: Any, source: str | bytes) -> Any:
    """Make a session that does not fall back to the CPU, which onnxruntime would print."""
    return runtime.InferenceSession(source, options, providers=providers, enable_fallback=0)


def _from_source(make: Callable[[str | bytes], Any], model: Path | bytes) -> Any:
    """Make a session. Of a link whose data are beside its target, onnxruntime takes the target."""
    if isinstance(model, bytes):
        return make(model)
    try:
        return make(str(model))
    except Exception:
        if not model.is_symlink():
            raise
        return make(str(model.resolve()))


def _spec(argument: Any) -> ValueSpec:
    shape = tuple(
        None if isinstance(size, int) and size < 0 else size for size in argument.shape or ()
    )
    return ValueSpec(argument.name, argument.type, shape)


_CUDA_FAILURE = re.compile(r"CU(DA|DNN|BLAS) failure \d+: [^;]*")


def _one_line(error: BaseException, model: Path | bytes = b"") -> str:
    """Return the message in one line, without the model's path, which may be temporary."""
    text = " ".join(str(error).split())
    if failure := _CUDA_FAILURE.search(text):  # after names of functions and files of onnxruntime
        return failure[0].strip()
    if isinstance(model, Path):
        text = text.replace(str(model), "the model")
    return text if len(text) <= 300 else f"{text[:297]}..."
