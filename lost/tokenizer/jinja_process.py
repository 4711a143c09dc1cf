"""The program that fills in one chat template for `lost.tokenizer.jinja`, within bounds; it imports nothing of lost.

usage: python -P jinja_process.py SECONDS BYTES CHARACTERS

Each line of standard input is a JSON object, and is answered by a line with a JSON list: the text, and what is wrong.
The first holds the template and its names, all others the variables of one conversation. SECONDS bound the computing
for each of them: after that the system ends the process. BYTES bound its memory, CHARACTERS the text.
"""

import json
import resource
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn


def compiled(source: Any) -> Any:
    """Return a sandboxed `jinja2.Template`, with the functions and settings of transformers.

    Raises:
        jinja2.TemplateError: it isn't a valid template.
    """
    import jinja2
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


def _lower(limit: int, value: int) -> None:
    """Lower a limit of this process, where the system has it; it can be raised again."""
    hard = resource.getrlimit(limit)[1]
    with suppress(ValueError, OSError):  # macOS refuses a bound on memory
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def main(seconds: int, memory: int, characters: int) -> None:
    """Answer every line."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_AS, memory)
    template, names = None, {}
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)
        text, problem = "", ""
        try:
            request = json.loads(line)
            if template is None:
                template, names = compiled(request["source"]), request["names"]
            else:
                text = template.render(**request, **names)
        except MemoryError:
            problem = f"it takes more than {memory >> 20} MiB of memory"
        except Exception as error:  # a template is a program, which can raise anything
            problem = f"{error or type(error).__name__}"
        if len(text) > characters:
            text, problem = "", f"it makes more than {characters:,} characters"
        print(json.dumps([text, problem[:400]]), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
