"""`lost plan --suggest`: a run of the size, batch, rate and length that suit the time or the text there is."""

from pathlib import Path
from shlex import join

_TOO_HIGH = (
    "rate and batch are Step Law's own (arXiv 2503.04715): its rates were 2.2 to 2.4 times too high for the runs of "
    "docs/experiments.md; tune a small run, and name it with --from"
)

_OF_CONFIG = (
    "the rate is the configuration's, and the batch Step Law's own (arXiv 2503.04715), which has no rates for this "
    "optimizer as it is set; tune a small run, and name it with --from"
)


def answer_suggestion(
    config: str,
    data: Path | None,
    overrides: list[str],
    backend: str,
    device: str,
    hours: float | None,
    tokens: float | None,
    from_runs: Path | None,
    as_json: bool,
) -> None:
    """Print a suggestion; arguments as of `lost plan`."""
    from lost.bench import trial
    from lost.cli.render.output import answer, note
    from lost.cli.render.suggestion import suggestion_lines
    from lost.config import Config
    from lost.data.mixture import Mixture, open_dataset, training_stream
    from lost.engine import backend_module, resolve_backend
    from lost.model.load import load_config
    from lost.planning.micro_batch import with_micro_batch
    from lost.planning.room import check_room, fits
    from lost.planning.vocabulary import with_vocabulary
    from lost.scaling.suggestion import experience_of, follows_step_law, reading, report, settings, suggest

    asked, remark = with_vocabulary(load_config(config, overrides), data)
    dataset = open_dataset(asked.data, data) if data or asked.data.path or asked.data.mixture else None
    experience, remarks = experience_of([from_runs], asked) if from_runs else (None, [])
    name = resolve_backend(backend)
    module = backend_module(name)
    resolved = module.resolve(device)
    room = module.capacity(resolved)
    for text in filter(None, (remark, *remarks)):
        note(text)
    if experience and dataset and experience.proxy.data != dataset.fingerprint:
        note(f"the runs of --from read other text than {dataset.path}: the loss is what it would be on theirs")
    if not experience:
        note(_TOO_HIGH if follows_step_law(asked) else _OF_CONFIG)

    def ready(sized: Config) -> Config:
        return with_micro_batch(sized, name, resolved, room)

    def speed(sized: Config) -> float:
        sized = ready(sized)
        check_room(sized, name, resolved, room)
        note(f"measuring {sized.model.hidden_size} x {sized.model.num_hidden_layers} on {resolved}, some seconds")
        return trial.tokens_per_second(sized, name, resolved)

    suggested = suggest(
        asked,
        speed,
        lambda sized: fits(ready(sized), name, resolved, room, 1, ready(sized).train.micro_batch),
        hours and hours * 3600,
        tokens,
        experience,
    )
    read = None
    if dataset:
        stream = training_stream(dataset, asked.data.seq_len, asked.train.seed)
        read = reading(suggested, stream, dataset.shares() if isinstance(dataset, Mixture) else [1.0])
    sets = settings(asked, suggested.config)
    value = report(suggested, experience, read)
    new = {text.partition("=")[0] for text in sets}
    kept = [text for text in overrides if text.partition("=")[0] not in new]
    run = f"{Path(config).stem}-{value['parameters']['total'] / 1e6:.3g}M"
    words = ["lost", "train", config, *(["--data", str(data)] if data else []), "--out", f"runs/{run}"]
    chosen = {"--backend": backend, "--device": device}
    words += [word for option, given in chosen.items() if given != "auto" for word in (option, given)]
    words += [word for text in (*kept, *sets) for word in ("--set", text)]
    value["command"] = join(words)
    answer(as_json, value, suggestion_lines(value, "" if dataset is None else str(dataset.path)), value["command"])
