"""Runs on 8, 64 and 512 H100s, on paper: what `lost plan --world` says of LOST and of its dense twins. Prints tables.

usage: python benchmarks/cluster_plans.py        (seconds; nothing is measured)
"""

from collections.abc import Iterator

from lost.config import Config
from lost.model.adapted import dense_twin
from lost.model.load import load_config
from lost.planning.cluster import Plan, paced_by_link, plan_cluster
from lost.planning.roofline import card_for, step_on_a_card

MODELS, WORLDS = ("llama_1b_paper", "llama_7b_paper"), (8, 64, 512)
LINK, FAST_LINK = 50e9, 450e9  # bytes a second: 400 Gb/s of InfiniBand a card; NVLink, which ends at a machine of 8
ROOM = 72 << 30  # of an H100's 80 GB
SEQUENCES = 64  # a card, in the second table
GIB = 2**30


def main() -> None:
    """Print the tables."""
    print("# Runs on many cards, on paper\n\n`python benchmarks/cluster_plans.py`\n")
    print(
        "Estimates, nothing is measured: the rooflines and formulas of `lost/planning`, an H100 at 80 % of 989 TFLOP/s"
    )
    print(f"and 90 % of 3.35 TB/s, {ROOM / GIB:.0f} GiB of room a card; links of 50 GB/s a card, and of 450 GB/s.")
    print("Sending is hidden behind computing, or the other way round; latency isn't counted. LOST / dense.\n")
    print("## One card\n")
    print("| model, sequences at once | MFU, at best | tokens/s, at best | lead |\n| --- | --- | --- | --- |")
    for name, micro_batch in (("llama_1b_paper", 16), ("llama_1b_paper", 64), ("llama_7b_paper", 16)):
        print(one_card(name, micro_batch))
    print("\n## The batch as shipped, 512 x 256 tokens\n")
    print(*table([(name, load_config(name), world) for name in MODELS for world in WORLDS]), sep="\n")
    print(f"\n## {SEQUENCES} sequences a card\n")
    more = {world: [f"train.batch_size={SEQUENCES * world}"] for world in WORLDS}
    print(*table([(name, load_config(name, more[world]), world) for name in MODELS for world in WORLDS]), sep="\n")
    print("\n## What Muon adds\n")
    print(
        "`llama_1b` beside the same with AdamW, the batch as shipped: bytes sent, ms computing, and the lead with it.\n"
    )
    print("| cards | bytes | ms computing | of how many | lead at 50 GB/s |\n| --- | --- | --- | --- | --- |")
    print(*map(with_muon, WORLDS), sep="\n")
    print("\n## Where the link sets the pace\n")
    print("The fewest cards, of powers of two, on which sending takes longer than computing; the batch as shipped.\n")
    print("| model | 50 GB/s | 450 GB/s |\n| --- | --- | --- |")
    for name in MODELS:
        cells = [pair([paced(each, link) for each in twins(load_config(name))]) for link in (LINK, FAST_LINK)]
        print(f"| {name} | {' | '.join(cells)} |")


def one_card(name: str, micro_batch: int) -> str:
    """Return the row of one card."""
    config = load_config(name)
    card = card_for(config)
    steps = [step_on_a_card(each, card, micro_batch, config.train.batch_size) for each in twins(config)]
    own, dense = [each for each in steps if each]
    rates = pair([f"{each.tokens_per_second:,.0f}" for each in (own, dense)])
    shares = pair([f"{each.mfu(card):.2f}" for each in (own, dense)])
    return f"| {name}, {micro_batch} | {shares} | {rates} | {own.tokens_per_second / dense.tokens_per_second:.2f} |"


def table(cases: list[tuple[str, Config, int]]) -> Iterator[str]:
    """Yield the rows of configurations on so many cards."""
    yield (
        "| model, cards | at once | GiB a card | GiB sent, whole steps | by block | mode | ms computing "
        "| ms sending at 50 | at 450 | tokens/s at 50 | at 450 | lead at 50 | at 450 |"
    )
    yield "| --- |" + " --- |" * 12
    for name, config, world in cases:
        slow, fast = (plans(config, world, link) for link in (LINK, FAST_LINK))
        rates = [[each.tokens_per_second for each in both] for both in (slow, fast)]
        cells = [
            pair([str(each.micro_batch) for each in slow]),
            pair([f"{each.memory / GIB:.1f}{'' if each.fits else ' (too much)'}" for each in slow]),
            *(pair([f"{each.sent[mode].total / GIB:.1f}" for each in slow]) for mode in slow[0].sent),
            pair(["whole" if each.whole_steps else "block" for each in slow]),
            pair([f"{each.computing * 1e3:.0f}" for each in slow]),
            *(pair([f"{each.sending * 1e3:.0f}" for each in both]) for both in (slow, fast)),
            *(pair([f"{rate / 1e6:.2f}M" for rate in both]) for both in rates),
            *(f"{own / dense:.2f}" for own, dense in rates),
        ]
        yield f"| {name}, {world} | {' | '.join(cells)} |"


def with_muon(world: int) -> str:
    """Return the row of what Muon adds on so many cards."""
    config = load_config("llama_1b")
    adamw = plans(config.replace("optimizer", name="adamw", orthogonalize_dtype="float32"), world, LINK)
    muon = plans(config, world, LINK)
    both = list(zip(muon, adamw, strict=True))
    cells = [
        pair([f"{own.sent['whole_steps'].total / other.sent['whole_steps'].total - 1:+.1%}" for own, other in both]),
        pair([f"{(own.computing - other.computing) * 1e3:+.1f}" for own, other in both]),
        pair([f"{each.computing * 1e3:.0f}" for each in muon]),
        f"{muon[0].tokens_per_second / muon[1].tokens_per_second:.2f}",
    ]
    return f"| {world} | {' | '.join(cells)} |"


def plans(config: Config, world: int, link: float) -> list[Plan]:
    """Return the plans of LOST and of its dense twin."""
    found = [plan_cluster(each, world, link, card_for(each), ROOM) for each in twins(config)]
    return [each for each in found if each]


def twins(config: Config) -> list[Config]:
    """Return LOST and dense."""
    return [config, dense_twin(config)]


def paced(config: Config, link: float) -> str:
    """Return the number of cards."""
    return str(paced_by_link(config, link, card_for(config), ROOM) or "none")


def pair(texts: list[str]) -> str:
    """Return both, or one where they are the same."""
    return " / ".join(dict.fromkeys(texts))


if __name__ == "__main__":
    main()
