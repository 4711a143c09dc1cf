"""`lost doctor`: installed packages, working devices, a self-test, and what is missing."""

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from typing import Annotated, Any

import typer

from lost.cli.options import AsJson, Backend, Device

_NO_USERS = ("torch", "mlx", "all", "docs", "dev")  # extras: those of the backends have lines of their own
_PLACE, _ERROR = 30, 7  # columns of the self-test
_PACKAGES = ("torch", "mlx", "mlx-lm", "numpy", "scipy", "safetensors", "sentencepiece", "pydantic")


def doctor(
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Also test a tiny model on each device against numpy; takes a minute.")
    ] = False,
    backend: Backend = "auto",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Report what works on this machine.

    Lists installed packages, working devices, and what is missing with the command that installs it. --self-test
    compares logits, gradients and three optimizer steps with a numpy reference, in float32 and bfloat16, on every
    device, or on those that --backend and --device name.
    """
    import os
    import platform

    from lost import __version__
    from lost.cli.render.output import answer
    from lost.engine import BACKENDS, backend_module
    from lost.errors import BackendError, UserError
    from lost.utils.machine import memory_bytes
    from lost.utils.wording import sized

    if not self_test and (backend, device) != ("auto", "auto"):
        raise UserError("--backend and --device only have an effect with --self-test; add it, or leave them out")
    memory = memory_bytes()
    backends: dict[str, Any] = {}
    for name in BACKENDS:
        try:
            module = backend_module(name)
            backends[name] = {
                "works": True,
                "devices": {kind: module.capacity(kind) for kind in module.available()},
            }
        except BackendError as error:
            backends[name] = {"works": False, "reason": str(error)}
    works = any(entry["works"] for entry in backends.values())
    value: dict[str, Any] = {
        "lost": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_bytes": memory,
        "packages": {name: _version(name) for name in _PACKAGES},
        "missing": _missing(),
        "backends": backends,
        "ready": works,
    }
    lines = [
        f"lost {__version__}, Python {value['python']}, {value['platform']}, {os.cpu_count()} CPUs, {sized(memory)}",
        "packages: " + ", ".join(f"{name} {_version(name) or '-'}" for name in _PACKAGES),
    ]
    lines += [
        f"without {', '.join(absent)}: pip install 'lost-pretrain[{extra}]'"
        for extra, absent in value["missing"].items()
    ]
    for name, entry in backends.items():
        if entry["works"]:
            devices = ", ".join(f"{kind} ({sized(room)})" for kind, room in entry["devices"].items())
            lines.append(f"backend {name}: works; devices, the fastest first: {devices}")
        else:
            lines.append(f"backend {name}: {entry['reason']}")
    passed = True
    if self_test:
        targets = _targets(backends, backend, device)
        checks = list(_self_test(targets, as_json))
        if ("mlx", "gpu") in targets:
            checks += _without_tf32(checks, as_json)
        passed = all(check["passed"] for check in checks)
        value |= {"self_test": checks}
        lines.append("self-test: " + ("passed" if passed else "FAILED; see docs/mac.md"))
    value["ready"] = works and passed
    if not works:
        lines.append("no backend works: nothing can be trained yet")
    else:
        lines.append("ready to train" if passed else "not ready to train: the self-test failed")
    answer(as_json, value, lines)
    if not value["ready"]:
        raise typer.Exit(1)


def _missing() -> dict[str, list[str]]:
    """Return the packages that aren't here of each extra that adds something to a backend."""
    missing: dict[str, list[str]] = {}
    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires("lost-pretrain") or []:
            named = re.fullmatch(r"([\w-]+)[^;]*; extra == ['\"]([\w-]+)['\"]", line)
            if named and named[2] not in _NO_USERS and _version(named[1]) is None:
                missing.setdefault(named[2], []).append(named[1])
    return missing


def _targets(backends: dict[str, Any], backend: str, device: str) -> list[tuple[str, str]]:
    """Return the (backend, device) pairs to test."""
    from lost.engine import backend_module

    if backend == "auto":
        names = [name for name, entry in backends.items() if entry["works"]]
    else:
        backend_module(backend)  # raises what is wrong with it
        names = [backend]
    pairs = [(name, kind) for name in names for kind in backends[name]["devices"]]
    return [pair for pair in pairs if pair[1] == device] if device != "auto" else pairs


def _self_test(targets: list[tuple[str, str]], as_json: bool) -> Iterator[dict[str, Any]]:
    """Test each (backend, device), print each result as it arrives, and yield the checks."""
    from dataclasses import asdict
    from itertools import groupby

    from lost.cli.render.output import note, say
    from lost.engine import create_engine
    from lost.engine.selftest import ALLOWED, self_test
    from lost.errors import UserError

    if not targets:
        raise UserError("--self-test: no such device works here; see `lost doctor` for those that do")
    show, head = note if as_json else say, ""
    for target in targets:
        where = {"backend": target[0], "device": target[1]}
        checks = self_test(lambda config, to=target: create_engine(config, *to))  # type: ignore[misc]
        try:
            for (kind, dtype), group in groupby(checks, lambda check: (check.kind, check.dtype)):
                results = list(group)
                if not head:
                    head = "  ".join(quantity.rjust(_ERROR) for quantity in ALLOWED[dtype])
                    show(f"{'errors':{_PLACE}}  {head}")
                found = {each.quantity: f"{each.error:.1e}" for each in results}
                errors = "  ".join(found.get(name, "").rjust(max(_ERROR, len(name))) for name in ALLOWED[dtype])
                wrong = [
                    f"{each.quantity} at most {ALLOWED[dtype][each.quantity]}" for each in results if not each.passed
                ]
                verdict = f"FAILED: {', '.join(wrong)}" if wrong else "ok"
                place = f"{' '.join(target):10}  {kind:8}  {dtype}"
                show(f"{place:{_PLACE}}  {errors}  {verdict}")
                yield from ({**where, **asdict(check), "passed": check.passed} for check in results)
        except Exception as error:  # whatever the device raises: this command is there to report it
            reason = f"{type(error).__name__}: {error}"
            show(f"{' '.join(target)}  FAILED: {reason}")
            yield {**where, "reason": reason, "passed": False}


def _without_tf32(checks: list[dict[str, Any]], as_json: bool) -> list[dict[str, Any]]:
    """Test MLX's GPU again with exact products, where what failed looks like TF32's, and return those checks.

    Where they pass, what failed is taken as right: it is marked, in place, as rounded to TF32.
    """
    from lost.cli.commands.beforehand.tf32 import looks_rounded, run_again
    from lost.cli.render.output import note, say

    failed = [
        check for check in checks if not check["passed"] and (check["backend"], check["device"]) == ("mlx", "gpu")
    ]
    if not looks_rounded(failed):
        return []
    show = note if as_json else say
    show("mlx gpu rounds float32 products, as TF32 does; once more with MLX_ENABLE_TF32=0, in a process of its own:")
    again = run_again(show)
    if all(check["passed"] for check in again):
        show("mlx gpu is right without TF32: training works with either; docs/mac.md says when it matters")
        for check in failed:
            check |= {"passed": True, "tf32": True}
    return again


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
