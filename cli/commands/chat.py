"""`lost chat`: a conversation with a model, turn by turn."""

from lost.cli.options import (
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


def chat(
    path: Model,
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
) -> None:
    """Talk with a model, turn by turn, in its chat template.

    A model without one continues a text that both write on. If standard input isn't a terminal, each line is a turn or
    a command; an invalid command ends the chat. In the conversation, /help lists the commands; Ctrl-C ends an answer,
    Ctrl-D the conversation.
    """
    from lost.cli.load import load_model
    from lost.cli.render.conversation import converse
    from lost.generation.conversation import Conversation
    from lost.generation.sampler import Sampler
    from lost.interop.special_tokens import read_after

    sampler = Sampler(temperature, top_k, top_p, seed, repetition_penalty)
    source, engine = load_model(path, backend, device)
    positions = source.config.model.max_position_embeddings
    tokenizer = source.tokenizer()
    begin = read_after(tokenizer, source.progress)
    conversation = Conversation(engine, tokenizer, sampler, positions, max_tokens, stop, begin, source.ends)
    converse(conversation, str(source.path), source.seq_len, raw)
