"""The estimates of `lost plan` for CUDA cards, in words."""

from collections.abc import Iterator
from typing import Any

from lost.cli.render.output import count, table
from lost.utils.wording import counted, sized


def roofline_line(value: dict[str, Any], kind: str) -> Iterator[str]:
    """Yield what one card could do at best; nothing where the kind's work isn't counted."""
    own, dense = value, value["dense"]
    if "mfu" in own and "mfu" in dense:
        ratio = own["tokens_per_second"] / dense["tokens_per_second"]
        yield (
            f"one card at best, compiled, {counted(own['micro_batch_size'], 'sequence')} at once: {kind} "
            f"{count(own['tokens_per_second'])} tokens/s (MFU {own['mfu']:.0%}), dense "
            f"{count(dense['tokens_per_second'])} ({dense['mfu']:.0%}), ratio {ratio:.2f}; by a roofline of "
            f"{value['flops_share']:.0%} of {value['peak_flops'] / 1e12:g} TFLOP/s and {value['bandwidth_share']:.0%} "
            f"of {value['bandwidth'] / 1e9:g} GB/s: nothing is measured"
        )


def rates_lines(value: dict[str, Any], base_width: int) -> Iterator[str]:
    """Yield the rates and decays that follow from a narrower model's."""
    groups = value["groups"]
    rows = [[", ".join(each["tensors"]), f"{each['lr']:.3g}", f"{each['weight_decay']:.3g}"] for each in groups]
    yield ""
    yield from table([f"{value['widening']:.3g} times as wide as {base_width}", "peak rate", "decay"], rows)


def cluster_lines(value: dict[str, Any], kind: str) -> Iterator[str]:
    """Yield a table of what each of many cards holds, computes and sends in a step."""
    both = [each for each in (value, value["dense"]) if "mode" in each]
    if len(both) < 2:
        yield f"{value['world']} cards: what {kind} computes isn't counted by the roofline"
        return

    def row(name: str, *cells: str) -> list[str]:
        return [name, *cells]

    rows = [
        row("sequences at once", *(str(each["micro_batch_size"]) for each in both)),
        row("memory a card", *(sized(each["memory_bytes"]) + ("" if each["fits"] else " (too much)") for each in both)),
        row("sent a step, whole", *(sized(each["sent_bytes"]["whole_steps"]) for each in both)),
        row("sent a step, by block", *(sized(each["sent_bytes"]["block_by_block"]) for each in both)),
        row("mode", *(each["mode"].replace("_", " ") for each in both)),
        row("computing", *(f"{each['computing_seconds'] * 1e3:.1f} ms" for each in both)),
        row("sending", *(f"{each['sending_seconds'] * 1e3:.1f} ms" for each in both)),
        row("tokens/s, all cards", *(count(each["tokens_per_second"]) for each in both)),
        row("the link sets the pace from", *(str(each["paced_by_link_from"] or "-") + " cards" for each in both)),
    ]
    yield ""
    yield from table([f"{value['world']} cards, at best", kind, "dense"], rows)
    yield (
        f"each sends {value['link_bytes_per_second'] / 1e9:g} GB/s in rings, hidden behind computing where that takes "
        "longer; latency isn't counted"
    )
