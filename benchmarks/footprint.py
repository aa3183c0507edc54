"""What having the package costs: CPU of its import against `import httpx, attrs`, and the size of a base install.

Both are measured in a fresh virtual environment that holds nothing but the package and its dependencies.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROUNDS = 30
CHECKOUT = Path(__file__).parent.parent
STATEMENTS = ("pass", "import httpx, attrs", "import anyapi_midjourney")


def cpu(python: Path, statement: str) -> float:
    """Seconds of CPU that a new interpreter takes for one statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def installed_size(site_packages: Path) -> int:
    """Bytes of what pip installed, its bytecode included."""
    return sum(file.stat().st_size for file in site_packages.rglob("*") if file.is_file())


def main() -> None:
    """Measures, and prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False)
        python = Path(folder, "bin", "python")
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install"]
        subprocess.run([*pip, "--constraint", CHECKOUT / "constraints.txt", CHECKOUT], check=True)
        costs: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
        for turn in range(ROUNDS + 1):
            for statement in STATEMENTS:
                seconds = cpu(python, statement)
                if turn:  # the first writes the bytecode
                    costs[statement].append(seconds)
        empty, peers, ours = (statistics.median(costs[statement]) for statement in STATEMENTS)
        print(f"import httpx, attrs         {(peers - empty) * 1e3:6.1f} ms")
        print(f"import anyapi_midjourney    {(ours - empty) * 1e3:6.1f} ms   {(ours - empty) / (peers - empty):.2f} ×")
        (site_packages,) = Path(folder, "lib").glob("python*/site-packages")
        print(f"base install                {installed_size(site_packages) / 2**20:6.1f} MiB")


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    main()
