"""What having the package costs: CPU of its import and of its command's start, and the size of a base install.

All are measured in a fresh virtual environment that holds nothing but the package and its dependencies.
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


def cpu(command: list[str | Path]) -> float:
    """Seconds of CPU that a command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(commands: dict[str, list[str | Path]]) -> None:
    """Prints what the second and the third command take more than the first, and their ratio."""
    costs: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(ROUNDS + 1):
        for name, command in commands.items():
            seconds = cpu(command)
            if turn:  # the first writes the bytecode
                costs[name].append(seconds)
    nothing, *medians = (statistics.median(seconds) for seconds in costs.values())
    names = list(commands)[1:]
    for name, median in zip(names, medians, strict=True):
        ratio = (median - nothing) / (medians[0] - nothing)
        print(f"{name:28}{(median - nothing) * 1e3:6.1f} ms   {ratio:.2f} ×")


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
        empty: list[str | Path] = [python, "-c", "pass"]
        peers, ours, theirs = "import httpx, attrs", "import anyapi_midjourney", "import httpx, click, rich"
        compare({"": empty, peers: [python, "-c", peers], ours: [python, "-c", ours]})
        (site_packages,) = Path(folder, "lib").glob("python*/site-packages")
        print(f"{'base install':28}{installed_size(site_packages) / 2**20:6.1f} MiB")
        subprocess.run([*pip, "--constraint", CHECKOUT / "constraints.txt", f"{CHECKOUT}[cli]"], check=True)
        command = Path(folder, "bin", "anyapi-midjourney")
        # As a person waits for it: with the start of the interpreter.
        compare({"": ["true"], theirs: [python, "-c", theirs], "anyapi-midjourney --help": [command, "--help"]})


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    main()
