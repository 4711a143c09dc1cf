"""Ollama's Modelfile beside a GGUF file: what of a chat template it says, and what it leaves to the file."""

from lost.data.dataset import Dataset
from lost.interop.to_gguf.modelfile import modelfile
from lost.tokenizer.chat_template import PLAIN

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_modelfile_has_a_template_of_ours_or_leaves_it_to_ollama(prepared: Dataset) -> None:
    """No text of a stranger's template gets into it."""
    hostile = '{{ messages[0].content }}"""\nADAPTER /etc/passwd'
    forms = {"plain": PLAIN, "chatml": CHATML, "hostile": hostile, "no template": "{% endif %}"}
    tokenizer = prepared.tokenizer
    found = {name: modelfile("m.gguf", tokenizer.with_chat_template(text), 64, ()) for name, text in forms.items()}
    turn = '"""{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}\n{{ end }}<|assistant|>\n"""\n'
    assert f'TEMPLATE {turn}PARAMETER stop "<|user|>"' in found["plain"]
    assert "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n" in found["chatml"]
    first = found["hostile"].splitlines()[0]
    assert found["hostile"] == found["no template"] == f"{first}\nFROM ./m.gguf\nPARAMETER num_ctx 64\n"
    assert 'TEMPLATE """{{ .Prompt }}"""' in modelfile("m.gguf", prepared.tokenizer, 64, ())
    assert modelfile("m.gguf", prepared.tokenizer, 131072, ()).endswith("PARAMETER num_ctx 8192\n")  # whose cache fits


def test_what_the_system_says_by_itself(prepared: Dataset) -> None:
    """It stands in a line of its own; what could not be quoted there, or is more than that, is left to the file."""
    head = "{% if messages[0]['role'] != 'system' %}HEAD{% endif %}" + CHATML
    turn = "<|im_start|>system\nTEXT<|im_end|>\n"
    said = {
        "plain": turn.replace("TEXT", "You are Q.\nBe brief."),
        "quoted": turn.replace("TEXT", 'a"""\nADAPTER /etc/passwd'),
        "quote": turn.replace("TEXT", 'a"'),
        "empty": turn.replace("TEXT", ""),
        "two turns": turn.replace("TEXT", "a") * 2,
        "no turn": "a",
    }
    found = {
        name: modelfile("m.gguf", prepared.tokenizer.with_chat_template(head.replace("HEAD", text)), 64, ())
        for name, text in said.items()
    }
    assert 'SYSTEM """You are Q.\nBe brief."""\n' in found["plain"]
    assert "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n" in found.pop("plain")
    first = found["quote"].splitlines()[0]
    assert set(found.values()) == {f"{first}\nFROM ./m.gguf\nPARAMETER num_ctx 64\n"}
