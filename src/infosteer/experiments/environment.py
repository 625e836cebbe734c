"""What a result was measured with: versions, devices, threads."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from typing import Any

PACKAGES = (
    "infosteer",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "tokenizers",
    "numpy",
)
EXTRAS = {
    "eval": "lm_eval",
    "plots": "matplotlib",
    "kernels": "triton",
    "scale": "ray",
    "track": "trackio",
    "vllm": "vllm",
}


def environment() -> dict[str, Any]:
    """Versions, platform, threads and devices, as plain data; the same on every call in one process."""
    import torch

    from infosteer.ops.backends import describe

    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append({"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)})
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
        "cpu_cores": cpu_cores(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "devices": devices,
        "kernels": describe(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def extras() -> dict[str, bool]:
    """Optional dependency groups and whether each is installed."""
    return {name: importlib.util.find_spec(module) is not None for name, module in EXTRAS.items()}


def version(package: str) -> str | None:
    """A distribution's version, or None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
