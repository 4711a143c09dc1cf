"""Lines of `lost fit`: laws of kinds of projection, and one beside the other."""

from collections.abc import Callable, Iterator
from typing import Any

from lost.cli.render.output import count, duration, table
from lost.scaling.comparison import FAR
from lost.utils.wording import counted


def law_lines(value: dict[str, Any]) -> Iterator[str]:
    """Yield the laws of one kind, and what they predict."""
    sizes, tokens = (" to ".join(count(each) for each in value[key]) for key in ("sizes", "tokens"))
    where = "at the peak rate" if value["at_peak"] else "at schedules' ends"
    yield (
        f"{value['kind']}: {counted(value['runs'], 'run')}, {counted(value['points'], 'validation')} {where}, of "
        f"{sizes} parameters without embeddings, {tokens} tokens"
    )
    yield "loss = E + A/N^a + B/D^b, in nats a token; 95 % intervals"
    yield ""
    laws = [value["laws"][key]["constants"] for key in ("parameters", "flops")]
    rows = [
        [
            name,
            *(
                cell
                for law in laws
                for cell in (f"{law[name]['value']:.4g}", _interval(law[name]["interval"], "{:.3g}".format))
            ),
        ]
        for name in laws[0]
    ]
    yield from table(["", "N: parameters", "", "N: FLOPs a token / 6", ""], rows)
    if laws[0]["E"]["interval"] is None:
        yield "no intervals: as many losses as constants leave nothing over that tells how much runs vary"
    else:
        yield f"run-to-run noise: {value['laws']['parameters']['deviation']:.2%} of its loss"
    for each in value["predictions"]:
        yield (
            f"\n{count(each['size'])} parameters, {count(each['tokens'])} tokens: loss {each['loss']:.4f}"
            f"{_behind(each['interval'], '{:.4f}'.format)}"
        )


def comparison_lines(value: dict[str, Any]) -> Iterator[str]:
    """Yield both kinds' laws, where they cross, and the effective size."""
    for each in value["compared"]:
        yield from law_lines(each)
        yield ""
    first, second = (each["kind"] for each in value["compared"])
    rows = []
    for each in value["crossings"]:
        write = _WRITTEN[each["unit"]]
        tried = f"{write(each['low'])} to {write(FAR * each['trained'])}"
        at = "no crossing in range" if each["at"] is None else write(each["at"])
        if each["at"] and each["at"] > each["trained"]:
            at += f", {each['at'] / each['trained']:.1f} times beyond what was trained"
        share = "" if each["share"] is None else f"{each['share']:.0%}"
        sure = "" if each["certainty"] is None else f" ({each['certainty']:.0%})"
        rows.append([each["unit"], at, _interval(each["interval"], write), share, f"{each['ahead']}{sure}", tried])
    yield from table(["in", f"{first} and {second} cross at", "95 %", "of draws", "then ahead", "looked at"], rows)
    if rows[0][0] == "tokens":
        yield "in tokens: both in the largest shape that both have; else each in the best size for the budget"
    equal = value["effective_size"]
    what = f"{second} of {count(equal['size'])} parameters, {count(equal['tokens'])} tokens"
    if equal["equal"] is None:
        yield f"{what}: no size of {first} does as well from as many tokens"
    else:
        yield (
            f"{what}: as good as {first} of {count(equal['equal'])}{_behind(equal['interval'], count)}, "
            f"{equal['ratio']:.2f} times its size"
        )


def annealing_lines(value: dict[str, Any]) -> Iterator[str]:
    """Yield the law of one model's schedules, how far it was off, and what it foretells."""
    law = value["law"]
    yield f"{counted(value['runs'], 'run')} of one model, {counted(value['points'], 'validation')}"
    yield "loss = L0 + A/S^a - B x falls; S: sum of the rates so far; falls: of the rate, soon felt if C is large"
    yield "  ".join(f"{name} = {number:.4g}" for name, number in law.items())
    alone = value["runs"] == 1
    what = "the run's end from its first two thirds" if alone else "a run's end from all others"
    for each in value["held_out"]:
        yield (
            f"held out: {what}: {each['run']} ({each['schedule']}), step {each['step']}: {each['predicted']:.4f}, was "
            f"{each['loss']:.4f}: off by {each['error']:.2%}"
        )
    if not value["held_out"]:
        yield "how far off it is isn't known: without any one of the runs, the others don't tell what a fall brings"
    for each in value["predictions"]:
        yield f"\n{each['schedule']}, {counted(each['steps'], 'step')}: loss {each['loss']:.4f}"


_WRITTEN: dict[str, Callable[[float], str]] = {
    "tokens": count,
    "FLOPs": "{:.2e}".format,
    "seconds": lambda seconds: f"{seconds:.3g} s" if seconds < 60 else duration(seconds),
}


def _interval(pair: tuple[float, float] | None, write: Callable[[float], str]) -> str:
    """Return "1.2 to 3.4", or nothing."""
    return "" if pair is None else " to ".join(map(write, pair))


def _behind(pair: tuple[float, float] | None, write: Callable[[float], str]) -> str:
    """Return the same in brackets, to stand behind a number."""
    return f" ({_interval(pair, write)})" if pair else ""
