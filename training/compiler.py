"""What `train.compile` needs of a machine: a C compiler, and a folder from which what it made may run. Imports no torch.

On a GPU, Triton compiles a part of its driver by a C compiler with Python's headers; on a CPU, Inductor compiles all
kernels by a C++ compiler. Sources: triton/runtime/build.py, torch/_inductor/cpp_builder.py.
"""

import ctypes
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dataops.errors import ConfigError
from dataops.home import home

CACHES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""Environment variables of the folders of compiled kernels, and their names in the folder that we choose."""
_COMPILERS = {"cuda": ("CC", ("gcc", "clang", "cc")), "cpu": ("CXX", ("g++", "clang++", "c++"))}
_SOURCES = {"cuda": "#include <Python.h>\nint answer(void) { return 42; }\n"}
_SOURCES["cpu"] = '#include <vector>\nextern "C" int answer() { return std::vector<int>(42).size(); }\n'
REMEDY = "install gcc and libc6-dev (on a CPU g++), or set train.compile = false"


def prepare_compiler(device: str, folders: Sequence[Path] | None = None) -> Path:
    """Choose the folder of compiled kernels, unless the user has, and compile and run a function in it; return it.

    Args:
        device: cuda or cpu.
        folders: where it may be, best first; by default in the home, whose files survive a container, then the system's
            folder of temporary files.

    Raises: ConfigError if there is no compiler, or its results run in none of the folders.
    """
    if folders is None:
        folders = (home() / "cache" / "compiled", Path(tempfile.gettempdir()))
    chosen = [Path(os.environ[name]) for name in CACHES if name in os.environ]
    problems, working = [], []
    for folder in chosen or folders:
        try:
            _compile_and_run(device, folder)
        except (OSError, subprocess.SubprocessError) as error:
            problems.append(f"{folder}: {str(getattr(error, 'stderr', '') or error).strip()[:300]}")
        else:
            working.append(folder)
            if not chosen:
                break
    if working and not (chosen and problems):
        for name, place in CACHES.items():
            os.environ.setdefault(name, str(working[0] / place))
        return working[0]
    names = " or ".join(CACHES)
    raise ConfigError(f"compile: {'; '.join(problems)}: {REMEDY}; {names} name other folders for its results")


def _compile_and_run(device: str, folder: Path) -> None:
    variable, names = _COMPILERS[device]
    found = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise FileNotFoundError(f"no compiler is installed ({', '.join(names)}; {variable} names another)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        source, library = Path(place, "answer.c" if device == "cuda" else "answer.cpp"), Path(place, "answer.so")
        source.write_text(_SOURCES[device])
        headers = f"-I{sysconfig.get_path('include')}"
        command = [*found.split(), "-shared", "-fPIC", headers, str(source), "-o", str(library)]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        ctypes.CDLL(str(library)).answer()
