"""The jinja2 environment of Hugging Face's chat templates; jinja2 is an optional package."""

import json
from datetime import datetime
from types import ModuleType
from typing import Any, NoReturn

from lost.utils.extras import need


def library() -> ModuleType:
    """Return jinja2.

    Raises:
        MissingPackageError: it isn't installed.
    """
    return need("jinja2", "chat", "rendering a chat template")


def compiled(source: str) -> Any:
    """Return a sandboxed `jinja2.Template`, with the functions and settings of transformers.

    Raises:
        MissingPackageError: jinja2 isn't installed.
        jinja2.TemplateError: it isn't a valid template.
    """
    jinja2 = library()
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's part; here it has no effect."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **settings: Any) -> str:
    """Return JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **settings)
