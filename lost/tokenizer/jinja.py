"""The environment that Hugging Face's chat templates expect, with jinja2, which is optional."""

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
    return need("jinja2", "chat", "filling in a chat template")


def compiled(source: str) -> Any:
    """Return a `jinja2.Template` in a sandbox, with the functions and settings that transformers gives to them.

    Raises:
        MissingPackageError: jinja2 isn't installed.
        jinja2.TemplateError: it is no template.
    """
    jinja2 = library()
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant says, for those who ask; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made.from_string(source)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **settings: Any) -> str:
    """Return JSON without the escapes that Jinja's own filter puts in for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **settings)
