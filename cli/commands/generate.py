"""`lost generate`: continue a prompt."""

from typing import TYPE_CHECKING, Annotated

import typer

from lost.cli.options import AsJson, Backend, Device, Model, Threads

if TYPE_CHECKING:
    from collections.abc import Iterator


def generate(
    path: Model,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    chat: Annotated[
        bool, typer.Option("--chat", help="Format the prompt as a user's message, as in fine-tuning on messages.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample from the K likeliest tokens; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens with this total probability.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal text.", min=0)] = 0,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="In a terminal, print control characters too, as in a pipe.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt.

    Text is printed as it is generated, until the model ends it. With --chat, only the answer is printed. In a terminal,
    control characters are escaped.
    """
    from itertools import takewhile

    from lost.cli.load import load_model
    from lost.cli.render.output import answer, note, write_text
    from lost.evaluation.sampler import Sampler
    from lost.prepare.readers import clean
    from lost.tokenizer.chat_template import question

    prompt = clean(prompt)  # the shell's arguments may not be valid text
    sampler = Sampler(temperature, top_k, top_p, seed)
    source, engine = load_model(path, backend, device)
    tokenizer = source.tokenizer()
    begin = [tokenizer.end_of_text, *(question(tokenizer, prompt) if chat else tokenizer.encode(prompt)).tolist()]
    room = source.config.model.max_position_embeddings - len(begin)
    if room < 1:
        from lost.errors import UserError

        raise UserError(
            f"the prompt has {len(begin)} tokens; expected fewer than model.max_position_embeddings = "
            f"{source.config.model.max_position_embeddings}; shorten it"
        )
    # The model may have more entries than its tokenizer, which are untrained and have no meaning.
    generated = engine.generate(begin, lambda logits: sampler(logits[: tokenizer.vocab_size]), min(max_tokens, room))
    tokens: list[int] = []

    def answered() -> "Iterator[int]":
        for token in takewhile(lambda token: token != tokenizer.end_of_text, generated):
            tokens.append(token)
            yield token

    pieces = tokenizer.stream(answered(), begin)
    if as_json:
        text = "".join(pieces)
        answer(True, {"prompt": prompt, "text": text, "token_ids": tokens}, [])
    else:
        write_text("" if chat else prompt, raw)
        for piece in pieces:
            write_text(piece, raw)
        write_text("\n", raw)
    if len(tokens) == room < max_tokens:
        note(f"stopped after {room} tokens: the model has no more positions")
    if source.seq_len and len(begin) + len(tokens) > source.seq_len:
        note(f"longer than the {source.seq_len} tokens that the model was trained on: the end may be worse")
