"""The wheel, installed with nothing else of this tree, knows every subpackage and configuration."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    clone = out / "tree"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        source, target = ROOT / name, clone / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.exists():
            target.write_bytes(source.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(clone)], check=True, capture_output=True
    )
    return next(out.glob("*.whl"))


def test_every_module_and_configuration_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"lost/{path.relative_to(ROOT) if path.parts[len(ROOT.parts)] != 'lost' else path.relative_to(ROOT / 'lost')}"
        for folder in ("lost", "backends", "cli", "configs")
        for pattern in ("*.py", "*.yaml")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert len(expected) > 50
    assert expected <= names
    assert {name.split("/")[0] for name in names} == {"lost", wheel.name.rpartition("-py3")[0] + ".dist-info"}


def test_installed_alone_it_runs(wheel: Path, tmp_path: Path) -> None:
    """In an empty environment; the dependencies are lent by this one, so that nothing is downloaded."""
    venv.create(tmp_path / "env", with_pip=False)
    python, command = tmp_path / "env" / "bin" / "python", tmp_path / "env" / "bin" / "lost"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True)
    where = "import lost, site; print(lost.__file__); print(site.getsitepackages()[0])"
    module, site = run(tmp_path, python, "-P", "-c", where).split()
    assert module.startswith(site)
    lent = [entry for entry in sys.path if entry.endswith("site-packages")]
    (Path(site) / "lent.pth").write_text("\n".join(lent))
    assert "prepare" in run(tmp_path, command, "--help")
    assert "parameters" in run(tmp_path, command, "plan", "quickstart")
    assert "ready to train" in run(tmp_path, command, "doctor")


def run(folder: Path, *command: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
