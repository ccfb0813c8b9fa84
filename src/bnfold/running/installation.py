"""Why onnxruntime or one of its providers does not work here, and what mends it."""

from __future__ import annotations

import os
from pathlib import Path

from bnfold.running.environment import installed_runtimes


def _has_device() -> bool:
    """Return whether there may be a device: under WSL, it has another name."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu"))


INSTALL = {
    "cpu": "pip install onnxruntime",
    "cuda": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
}
"""What the extras of the same names install."""


def mending(provider: str = "cpu") -> str:
    """Return the command that mends the installation of onnxruntime."""
    versions = installed_runtimes()
    installed = [each.split()[0] for each in versions]
    if len(installed) > 1:
        return (
            f"{' and '.join(versions)} are both installed and overwrite each other's files: "
            f"pip uninstall -y {' '.join(installed)}, then {INSTALL[provider]}"
        )
    package = installed[0] if installed else "onnxruntime"
    return f"pip install --force-reinstall --no-deps {package}"


def diagnosis(provider: str, symptom: str) -> str:
    """Return a line that says why a provider is not available, by what is installed here."""
    installed = installed_runtimes()
    if len(installed) > 1:
        cure = mending(provider)
    elif provider == "cuda" and not any(name.startswith("onnxruntime-gpu") for name in installed):
        cure = (
            f"{', '.join(installed) or 'no onnxruntime'} is installed: pip uninstall it, then "
            f"{INSTALL['cuda']}"
        )
    elif provider == "cuda" and not _has_device() and os.name == "posix":
        cure = "this machine has no NVIDIA device, or its driver is not loaded"
    elif "CUDA failure" in symptom:
        cure = "the driver says so: see nvidia-smi, and the variable CUDA_VISIBLE_DEVICES"
    else:
        cure = "a CUDA or cuDNN library is missing or too old; see onnxruntime's requirements"
    return f"the provider {provider!r} is not available: {symptom}; {cure}"
