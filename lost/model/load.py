"""Loading of configurations: a YAML file and `--set` overrides, validated, with errors that name file, line and key."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lost.config import Config
from lost.config.document import Document, override, parse, problems, together
from lost.config.schedule import others
from lost.errors import ConfigError
from lost.model.parameters import projections
from lost.utils.wording import did_you_mean, did_you_mean_path

_SHIPPED = Path(__file__).parents[1] / "configs"


def shipped() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def find(name: str) -> Path:
    """Return the file meant by `name`: a path, or the name of a shipped configuration."""
    path = Path(name)
    if path.is_file():
        return path
    if name in shipped():
        return shipped()[name]
    if path.is_dir():
        own = path / "config.yaml"
        raise ConfigError(
            f"{name} is a folder; expected a configuration's file or a shipped name"
            + (f"; the run's own is {own}" if own.is_file() else "; a run begins with weights by --init-from")
        )
    hint = did_you_mean(name, shipped()) or did_you_mean_path(path)
    raise ConfigError(
        f"no configuration {name!r}: it is no file, no shipped name and no run's folder; {hint}shipped are "
        f"{', '.join(shipped())}"
    )


def load_config(name: str | Path | None, overrides: Sequence[str] = (), follows: Config | None = None) -> Config:
    """Read and validate a configuration.

    Args:
        name: a YAML file, or the name of a shipped configuration such as `llama_60m`; None: `follows` alone.
        overrides: `section.key=value`, the value in YAML; applied in order.
        follows: supplies the keys of model and projection that are left out; without a name all others too, except the
            data, where to stop, and the micro-batch, which is a matter of its machine.

    Raises:
        ConfigError: with file, line, key and value of all problems at once.
    """
    document = parse(find(str(name))) if name is not None else Document("configuration", {})
    for text in overrides:
        override(document, text)
    if follows:
        new = follows.replace("data", path=None, mixture=None)
        base = new.replace("train", stop_after=None, micro_batch_size="auto").model_dump()
        for section in ("model", "projection") if name is not None else base:
            own = document.values.get(section, {})
            if isinstance(own, dict):
                said = {other for key in own for other in others(key)} if section == "schedule" else ()
                own = {key: value for key, value in base[section].items() if key not in said} | own
            document.values[section] = own
    return validate(document.values, document)


def validate(values: dict[str, Any], document: Document | None = None) -> Config:
    """Validate plain values, and every projection's rank against its shape."""
    document = document or Document("configuration", values)
    try:
        config = Config.model_validate(values)
        projections(config)
    except ValidationError as error:
        raise ConfigError("\n".join(document.explain(problem) for problem in problems(error))) from None
    except ConfigError as error:
        if given := document.overridden((), str(error)):
            raise ConfigError(together(given, str(error))) from None
        raise ConfigError(f"{document.location(('projection',))}: {error}") from None
    return config


def dump(config: Config) -> str:
    """Return the configuration as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
