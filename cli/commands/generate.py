"""`lost generate`: continue a prompt."""

from typing import Annotated

import typer

from lost.cli.options import (
    AsJson,
    Backend,
    Device,
    MaxTokens,
    Model,
    Raw,
    RepetitionPenalty,
    Seed,
    Stops,
    Temperature,
    Threads,
    TopK,
    TopP,
)


def generate(
    path: Model,
    prompt: Annotated[str, typer.Option(help="Text to continue; -: standard input, less a line's end after it.")] = "",
    chat: Annotated[
        bool, typer.Option("--chat", help="Format the prompt as a user's message, as in fine-tuning on messages.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Continuations to write, one after the other.", min=1)] = 1,
    max_tokens: MaxTokens = 200,
    stop: Stops = [],
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = 0,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    raw: Raw = False,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt.

    Text is printed as it is generated, until the model ends it. With --chat, only the answer is printed. In a terminal,
    control characters are escaped.
    """
    from lost.cli.load import load_model
    from lost.cli.render.output import answer, note, write_text
    from lost.cli.render.streams import has_reader, opened_input
    from lost.errors import UserError
    from lost.generation.continuation import Continuation, begun
    from lost.generation.sampler import Sampler
    from lost.generation.stopping import ends_of_turn
    from lost.interop.special_tokens import read_after
    from lost.prepare.reading.readers import clean
    from lost.tokenizer.chat_template import question

    sampler = Sampler(temperature, top_k, top_p, seed, repetition_penalty)
    if prompt == "-":
        prompt = opened_input("the prompt").buffer.read().decode(errors="replace").removesuffix("\n")
    prompt = clean(prompt)  # the shell's arguments may not be valid text
    source, engine = load_model(path, backend, device)
    tokenizer = source.tokenizer()
    if chat and not tokenizer.chat_template:
        note("the tokenizer has no chat template: the plain one of `lost prepare --examples` is used")
    text = (question(tokenizer, prompt) if chat else tokenizer.encode(prompt)).tolist()
    begin = begun(text, read_after(tokenizer, source.progress), tokenizer)
    room = source.config.model.max_position_embeddings - len(begin)
    if room < 1:
        raise UserError(
            f"the prompt has {len(begin)} tokens; expected fewer than model.max_position_embeddings = "
            f"{source.config.model.max_position_embeddings}; shorten it"
        )
    ends = {*source.ends, *(ends_of_turn(tokenizer) if chat else ())}
    written = []
    for number in range(1, samples + 1):
        if samples > 1:
            note(f"sample {number} of {samples}")
        answered = Continuation(engine, tokenizer, begin, sampler, min(max_tokens, room), stop, ends)
        if as_json:
            written.append({"text": "".join(answered), "token_ids": answered.tokens, "ended": answered.ended})
        else:
            write_text("" if chat else prompt, raw)
            for piece in answered:
                write_text(piece, raw)
                if not has_reader():
                    return
            write_text("\n", raw)
        if answered.ended == "length" and room < max_tokens:
            note(f"stopped after {room} tokens: the model has no more positions")
        if source.seq_len and len(begin) + len(answered.tokens) > source.seq_len:
            note(f"longer than the {source.seq_len} tokens that the model was trained on: the end may be worse")
    answer(as_json, {"prompt": prompt, **(written[0] if written else {}), "samples": written}, [])
