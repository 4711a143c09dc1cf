"""Chat templates that loop for ever, fill the memory or don't compile: bounded, and refused with a word."""

from typing import Any

import pytest

from lost.errors import DataError
from lost.tokenizer import jinja
from lost.tokenizer.chat_template import JinjaTemplate

MESSAGES = [{"role": "user", "content": "a"}]
TIME, MEMORY, OUTPUT = "it takes more than 0 s", "it takes more than 1024 MiB of memory", "it makes more than"
REFUSED = {
    "loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TIME),
    "power": ("{{ 9 ** 99999999 }}", TIME),
    "macros": ("{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}", TIME),
    "doubling": ("{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s~n.s %}{% endfor %}", MEMORY),
    "product": ("{{ 'a' * 99999999999 }}", MEMORY),
    "list": ("{{ [1] * 99999999999 }}", MEMORY),
    "padding": ("{{ '%0999999999999d' | format(1) }}", ""),
    "output": ("{{ 'a' * 20000000 }}", OUTPUT),
    "break": ("{% break %}", "'break' outside loop"),
    "nested": ("{% if a %}" * 3000 + "{% endif %}" * 3000, "recursion"),
    "brackets": ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "recursion"),
    "endless macro": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "surrogate": ("{{ strftime_now('\ud800') }}", "surrogates not allowed"),
    "list without template": ([{"name": "default"}], "no list with one named default"),
    "list of numbers": ([1, 2], "no list with one named default"),
    "unhashable": ([{"name": ["default"], "template": "a"}], "no list with one named default"),
    "number": (5, "it is no text"),
    "object": ({"a": 1}, "it is no text"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "named"), REFUSED.values(), ids=REFUSED)
def test_refused_within_bounds(source: Any, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if named is TIME:
        monkeypatch.setattr(jinja, "SECONDS", 0)  # rounded up to the next whole one
    with pytest.raises(DataError, match=f"the tokenizer's chat template .*{named}"):
        JinjaTemplate(source, {}).question(MESSAGES)


def test_a_conversation_that_is_refused_is_not_the_last() -> None:
    template = JinjaTemplate("{{ bos_token }}{{ raise_exception('no') if messages|length > 1 }}", {"bos_token": "<s>"})
    with pytest.raises(DataError, match="rejects a conversation: no;"):
        template.question(MESSAGES * 2)
    assert template.question(MESSAGES) == "<s>"


def test_the_process_ends_with_its_template() -> None:
    template = JinjaTemplate("{{ messages[0].content }}", {})
    assert template.question(MESSAGES) == "a"
    process = template._process._process
    del template
    assert process.returncode is not None


def test_a_process_that_was_ended_is_named() -> None:
    template = JinjaTemplate("a", {})
    template._process._process.kill()
    template._process._process.wait()
    with pytest.raises(DataError, match=r"the process that fills it in ended by itself \(-9\)"):
        template.question(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.os }}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_the_machine_is_out_of_reach(source: str) -> None:
    with pytest.raises(DataError, match="rejects a conversation"):
        JinjaTemplate(source, {}).question(MESSAGES)
