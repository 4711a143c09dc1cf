"""Chat templates, which turn a conversation into text: the tokenizer's own, else a plain one.

A template splits each conversation in two: the given part, and the last answer, which is to be learned.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lost.errors import DataError
from lost.tokenizer.base import CONFIG, Tokenizer
from lost.tokenizer.jinja import TemplateError, TemplateProcess
from lost.utils.parsing import parse_object

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant")
PLAIN = (
    "{% if tools %}{{ raise_exception('this model knows no tools') }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] or message['content'] is not string %}"
    "{{ raise_exception('expected text by system, user or assistant') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{% if add_generation_prompt or not loop.last or message['role'] != 'assistant' %}{{ '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""`PlainTemplate` in Jinja, for other programs."""


class Template(Protocol):
    """Turns conversations into text.

    Attributes:
        special_tokens: whether the text contains special tokens, written out.
    """

    special_tokens: bool

    def question(self, messages: Sequence[Message], tools: Any = None) -> str:
        """Return the text of messages, up to where the assistant's answer begins."""

    def split(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, str]:
        """Return the text before the last message's content, an answer, and from there to the end."""

    def completion(self, prompt: str, answer: str, tools: Any = None) -> tuple[str, str]:
        """Return the text before and from an answer to a prompt."""

    def after_answer(self) -> str:
        """Return the text between an answer and what follows it, as far as special tokens are written out there."""


def template_of(tokenizer: Tokenizer) -> Template:
    """Return the tokenizer's own template, or the plain one.

    Raises:
        DataError: its own isn't a valid template.
        MissingPackageError: it has one, and jinja2, which renders it, isn't installed.
    """
    if not tokenizer.chat_template or tokenizer.chat_template == PLAIN:
        return PlainTemplate()
    return JinjaTemplate(tokenizer.chat_template, parse_object(tokenizer.files.get(CONFIG, b"{}")))


def question(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Return the ids (n,) of a user's message, up to where the assistant's answer begins."""
    template = template_of(tokenizer)
    return tokenizer.encode(template.question([{"role": "user", "content": text}]), template.special_tokens)


class PlainTemplate:
    """`<|user|>`, a line break, the message, a line break, and so on: ordinary text, without special tokens.

    The format of Tulu (Wang et al., arXiv 2306.04751). The answer ends with the end-of-text token. A prompt and its
    completion are just concatenated.
    """

    special_tokens = False

    def question(self, messages: Sequence[Message], tools: Any = None) -> str:
        """Return the text of messages, up to where the assistant's answer begins."""
        if tools is not None:
            raise DataError(
                "there are tools, and the tokenizer has no chat template that formats them; expected messages alone; "
                "remove the tools, or use a tokenizer with a template"
            )
        for message in messages:
            role, content = message.get("role"), message.get("content")
            if role not in ROLES or not isinstance(content, str):
                raise DataError(
                    f"a message has the role {role!r} and the content {content!r:.40}; expected one of "
                    f"{', '.join(ROLES)}, and text (a tokenizer with a chat template of its own may take others)"
                )
        turns = [f"<|{message['role']}|>\n{message['content']}\n" for message in messages]
        return "".join(turns) + f"<|{ROLES[-1]}|>\n"

    def split(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, str]:
        """Return the text before the last message's content, and that content."""
        self.question(messages, tools)  # checks all of them
        return self.question(messages[:-1], tools), messages[-1]["content"]

    def completion(self, prompt: str, answer: str, tools: Any = None) -> tuple[str, str]:
        """Return both as they are."""
        self.question((), tools)  # refuses tools
        return prompt, answer

    def after_answer(self) -> str:
        """Return no text: end-of-text ends an answer."""
        return ""


class JinjaTemplate:
    """A Hugging Face chat template, rendered as in transformers (`utils/chat_template_utils.py`), within bounds.

    Args:
        source: the template, or a list of named ones, of which `default` is used.
        names: variables of the template, such as `bos_token` and `eos_token`.

    Raises:
        DataError: it isn't a valid template.
    """

    special_tokens = True

    def __init__(self, source: Any, names: Mapping[str, Any]) -> None:
        try:
            tokens = {name: text for name, text in names.items() if name.endswith("_token")}
            self._process = TemplateProcess(default_template(source), tokens)
        except TemplateError as error:
            raise DataError(
                f"the tokenizer's chat template can't be read: {error}; expected a Jinja template; correct it, or "
                "remove it from the tokenizer's files"
            ) from None

    def question(self, messages: Sequence[Message], tools: Any = None) -> str:
        """Return the text of messages, up to where the assistant's answer begins."""
        return self._rendered(messages, tools, True)

    def split(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, str]:
        """Return the text before the last message's content, and from there to the end."""
        before, whole = self.question(messages[:-1], tools), self._rendered(messages, tools, False)
        if not whole.startswith(before):
            raise DataError(
                "the tokenizer's chat template changes a conversation when an answer is added, so that the answer "
                "can't be told from the rest; expected a template that only appends; change it"
            )
        return before, whole[len(before) :]

    def completion(self, prompt: str, answer: str, tools: Any = None) -> tuple[str, str]:
        """Return the text before and from an answer to a prompt, as a conversation of the two."""
        return self.split([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], tools)

    def after_answer(self) -> str:
        """Return what follows an answer.

        Of a whole conversation: a template may begin an answer that is to come by what it leaves out of one that is
        there, such as `<think>`.
        """
        answer = "an answer"
        messages = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": answer}]
        _, found, after = self._rendered(messages, None, False).rpartition(answer)
        return after if found else ""

    def _rendered(self, messages: Sequence[Message], tools: Any, answer: bool) -> str:
        try:
            return self._process.render(messages=[*messages], tools=tools, documents=None, add_generation_prompt=answer)
        except TemplateError as error:
            raise DataError(
                f"the tokenizer's chat template rejects a conversation: {error}; expected messages that it supports; "
                "correct them"
            ) from None


def default_template(source: Any) -> str:
    """Return the template, or of named ones that of the name `default`.

    Raises:
        TemplateError: there is none.
    """
    if isinstance(source, list):
        named = (each for each in source if isinstance(each, dict) and each.get("name") == "default")
        source = next(named, {}).get("template")
    if not isinstance(source, str):
        raise TemplateError(f"it is no text, and no list with one named default ({source!r:.40})")
    return source
