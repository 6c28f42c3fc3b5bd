"""What a measurement was made on: processor, caches, instruction sets, libraries, threads, commit and load."""

import os
import platform
import re
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "neon", "sve")
_LIMITS = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "XATTN_FUSED")
"""Variables that change which instructions, how many threads or which form are used."""


def machine(device: torch.device) -> dict[str, str]:
    """One value for each thing that a figure depends on, by name."""
    found = {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores usable",
        "caches": _caches(),
        "instructions": f"{' '.join(_instruction_sets())} (PyTorch uses {torch.backends.cpu.get_cpu_capability()})",
        "torch": f"{torch.__version__}, {', '.join(_libraries())}",
        "threads": str(torch.get_num_threads()),
        "commit": commit(ROOT),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ]
    if limits:
        found["environment"] = " ".join(limits)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["device"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return found


def commit(checkout: Path) -> str:
    """The short name of a checkout's commit; `changed` if files differ from it."""
    head, changes = (
        subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
        for arguments in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    if head.returncode:
        return "not in git"
    return head.stdout.strip() + (", changed" if changes.stdout.strip() else "")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return name[1] if name else platform.processor() or platform.machine()


def _instruction_sets() -> list[str]:
    info = Path("/proc/cpuinfo")
    flags = re.search(r"(?:flags|Features)\s*: (.*)", info.read_text()) if info.exists() else None
    return [name for name in _SETS if flags and name in flags[1].split()]


def _caches() -> str:
    """Of the first core, which may share the larger ones with others."""
    sizes = []
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((cache / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes.append(f"L{level} {size}")
    return ", ".join(sizes) or "unknown"


def _libraries() -> list[str]:
    built = torch.__config__.show()
    patterns = {
        "BLAS": r"BLAS_INFO=(\w+)",
        "MKL": r"Math Kernel Library Version ([\d.]+)",
        "oneDNN": r"MKL-DNN v([\d.]+)",
    }
    versions = {name: re.search(pattern, built) for name, pattern in patterns.items()}
    found = [f"{name} {version[1]}" for name, version in versions.items() if version]
    return [*found, f"numba {metadata.version('numba')}" if find_spec("numba") else "no numba"]
