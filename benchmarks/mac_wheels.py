"""Whether Macs find wheels: each pin of constraints.txt, for macOS 14 on arm64 and each Python that we support.

usage: python benchmarks/mac_wheels.py      (asks the registry that pip is set to; minutes; exit code 1: one is missing)
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PINS = Path(__file__).parents[1] / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
NOT_ON_MACS = ("mlx-cpu",)  # MLX for Linux


def wheel(pin: str, python: str, platform: str = "macosx_14_0_arm64") -> str | None:
    """Return the name of the wheel that pip takes for a pin, or None where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--no-deps",
             "--target", folder, "--only-binary", ":all:", "--platform", platform, "--python-version", python,
             "--report", report, pin],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            if "No matching distribution" not in done.stderr:
                sys.exit(done.stderr)
            return None
        return json.loads(report.read_text())["install"][0]["download_info"]["url"].rsplit("/", 1)[1]


def main() -> None:
    """Print one table, and say by the exit code whether a wheel is missing."""
    lines = (line.strip() for line in PINS.read_text().splitlines())
    pins = [line for line in lines if line and not line.startswith("#") and line.split("==")[0] not in NOT_ON_MACS]
    print(
        "# Wheels for Macs\n\n`python benchmarks/mac_wheels.py`: tags of the wheels that pip takes on macOS 14, arm64\n"
    )
    print(f"| pin | {' | '.join(PYTHONS)} |\n| --- |{' --- |' * len(PYTHONS)}")
    missing = 0
    for pin in pins:
        found = [wheel(pin, python) for python in PYTHONS]
        missing += found.count(None)
        tags = ["-".join(name.removesuffix(".whl").split("-")[-3:]) if name else "**none**" for name in found]
        print(f"| {pin} | {' | '.join(tags)} |", flush=True)
    print(f"\nmissing: {missing}")
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
