"""A sweep's plan: which runs it needs, given what is known; no run is started here."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import make_run

from lost.cli.render.sweep import sensitivity_lines
from lost.config.document import Document, override
from lost.errors import ConfigError
from lost.sweep.plan import Sweep, Trial, read_sweep
from lost.sweep.report import table, write_report
from lost.sweep.results import LINES, Results
from lost.sweep.search import beyond, searched
from lost.sweep.sensitivity import sensitivity

FILE = """\
config:
  model: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 4, vocab_size: 99}
  projection: {rank: 4}
  schedule: {steps: 20}
grid:
  projection.kind: [dense, lost]
  size:
    small: {model.hidden_size: 16, model.num_attention_heads: 2}
    large: {}
search: {optimizer.lr: [1.0e-3, 2.0e-3]}
seeds: [0, 7]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def follow(sweep: Sweep, loss: Callable[[Trial], float]) -> list[Trial]:
    """Do what is wanted until nothing is."""
    losses: dict[str, float] = {}
    done = []
    while trial := next((each for each in sweep.trials(losses) if each.name not in losses), None):
        losses[trial.name] = loss(trial)
        done.append(trial)
        assert len(done) < 99
    return done


def test_each_cell_searches_until_its_best_is_inside_and_repeats_it(file: Path) -> None:
    """Dense is best at 1e-3, at the lower edge at first; LOST at 8e-3, two steps beyond the upper one."""
    best = {"dense": 1e-3, "lost": 8e-3}
    done = follow(read_sweep(file), lambda trial: abs(trial.value - best[trial.cell.names["projection.kind"]]))
    tried = {
        kind: sorted({each.value for each in done if each.cell.names == {"projection.kind": kind, "size": "small"}})
        for kind in best
    }
    assert tried == {"dense": [0.0005, 0.001, 0.002], "lost": [0.001, 0.002, 0.004, 0.008, 0.016]}
    repeated = [each for each in done if each.seed == 7]
    assert [(each.cell.names["projection.kind"], each.value) for each in repeated] == [
        (kind, best[kind]) for kind in best for _ in ("small", "large")
    ]
    assert len({each.name for each in done}) == len(done)
    assert done[0].name == "dense-small-0.001-seed0"
    assert 'projection.kind="dense"' in done[0].wanted.overrides
    assert "model.hidden_size=16" in done[0].wanted.overrides


def test_a_grid_without_a_search_is_each_place_at_each_seed(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(
        "config: quickstart\ngrid: {optimizer.lr: [1e-3, 2e-3], projection.rank: [32, 64]}\nseeds: [0, 1]"
    )
    done = follow(read_sweep(tmp_path / "grid.yaml"), lambda trial: 1.0)
    assert [(each.settings["projection.rank"], each.seed) for each in done] == [
        (32, 0), (64, 0), (32, 0), (64, 0), (32, 1), (64, 1), (32, 1), (64, 1),
    ]  # fmt: skip


def test_twofold_steps_end_inside_and_keep_whole_numbers_whole() -> None:
    assert [beyond([1.0, 2.0, 4.0], best) for best in (1.0, 2.0, 4.0)] == [0.5, None, 8.0]
    assert [beyond([6, 12], best) for best in (6, 12)] == [3, 24]
    assert beyond([3, 6], 3) == 1.5  # of a key that takes it: whole numbers are written where there are decimals
    assert beyond([3, 6], 3, lambda value: value == int(value)) is None
    values, over = searched([1.0, 2.0], lambda value: value)  # the lower, the better: it ends all the same
    assert over
    assert min(values) == 1 / 256
    diverging, over = searched([4.0], lambda value: float("inf") if value > 1 else 2 - value)
    assert (over, diverging) == (True, [0.5, 1.0, 2.0, 4.0])


def test_a_single_value_whose_half_cannot_be_tried_is_doubled() -> None:
    """Both of its sides are edges."""
    values, over = searched([3], lambda value: abs(value - 12), lambda value: value == int(value))
    assert (over, values) == (True, [3, 6, 12, 24])
    values, over = searched([8.0], lambda value: -value, lambda value: 8 <= value < 64)
    assert (over, values) == (True, [8.0, 16.0, 32.0])


@pytest.mark.parametrize(
    ("search", "tried"),
    [
        ("optimizer.weight_decay: [1, 2]", {0.25, 0.5, 1, 2}),  # of a key with decimals
        ("projection.rank: [3, 6]", {3, 6}),  # of one without
        ("projection.rank: [3]", {3, 6}),
    ],
)
def test_a_key_says_whether_halves_are_whole(file: Path, search: str, tried: set[float]) -> None:
    """The least is best, down to a half."""
    file.write_text(FILE.replace("optimizer.lr: [1.0e-3, 2.0e-3]", search))
    done = follow(read_sweep(file), lambda trial: abs(trial.value - 0.5))
    assert {each.value for each in done if each.name.startswith("lost-large")} == tried


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("optimizer.lr", "optimizer.lrr"), "mine.yaml:10: optimizer.lrr = 0.001: unknown key; did you mean 'lr'?"),
        (("model.hidden_size: 16", "model.hidden_size: 15"), "(in the run dense-small-0.001-seed0)"),
        (("seeds", "seed"), "mine.yaml:11: seed = [0, 7]: unknown key; did you mean 'seeds'?"),
        (("[0, 7]", "[0, 0]"), "mine.yaml:11: seeds = [0, 0]: expected one number or more, each once"),
        (("[dense, lost]", "dense"), "mine.yaml:6: grid.projection.kind = 'dense': expected a list of its values"),
        (("[dense, lost]", "[dense, lots]"), "mine.yaml:6: projection.kind = 'lots'"),
        (("[1.0e-3, 2.0e-3]", "[-1]"), "mine.yaml:10: search.optimizer.lr = [-1]: expected a list of positive"),
        (("[1.0e-3, 2.0e-3]", "[.inf]"), "mine.yaml:10: search.optimizer.lr = [inf]: expected a list of positive"),
        (("[1.0e-3, 2.0e-3]", f"[1{'0' * 400}]"), "expected a list of positive numbers"),
        (("[1.0e-3, 2.0e-3]", "[true]"), "mine.yaml:10: search.optimizer.lr = [True]: expected a list of positive"),
        (("[1.0e-3, 2.0e-3]", "much"), "mine.yaml:10: search.optimizer.lr = 'much': expected a list of positive"),
        (("[1.0e-3, 2.0e-3]", "[1.0e-3, 1.0000001e-3]"), "two runs would be called dense-small-0.001-seed0"),
        (("  schedule: {steps: 20}\n", ""), "schedule: missing; add it"),
        (("config:", "confit:"), "did you mean 'config'?"),
        (("projection.kind:", "projektion.kind:"), "mine.yaml:6: projektion = "),
        (
            ("[dense, lost]", "[lost, lost]"),
            "mine.yaml:6: grid.projection.kind = ['lost', 'lost']: two",
        ),
        (
            ("projection.kind: [dense, lost]", "train.seed: [0, 1]"),
            "grid.train.seed = [0, 1]: train.seed is",
        ),
        (("optimizer.lr:", "train.seed:"), "mine.yaml:10: search.train.seed"),
        (("projection.kind: [dense, lost]", "optimizer.lr: [0.1]"), "sets optimizer.lr, and this optimizer.lr"),
        (("projection.kind: [dense, lost]", "model.hidden_size: [8]"), "grid.model.hidden_size sets model.hidden_size"),
        (
            ("{}", "{schedule.tokens: 640}\n  schedule.steps: [5]"),
            "sets schedule.tokens, and this schedule.steps",
        ),
        (("    small:", f"    {'s' * 240}:"), "its 258 bytes are no folder's name"),
        (("projection: {rank: 4}", "data: {path: 2024-01-01}"), "mine.yaml:3: data.path = datetime.date(2024, 1, 1)"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(file: Path, change: tuple[str, str], words: str) -> None:
    file.write_text(FILE.replace(*change))
    with pytest.raises(ConfigError) as error:
        read_sweep(file)
    assert words in str(error.value)


@pytest.mark.parametrize("path", ["2024-01-01", "/tmp/\N{GRINNING FACE}"])
def test_what_json_and_yaml_write_differently(file: Path, path: str) -> None:
    """A date, which is a text to a configuration; a character that JSON escapes in halves."""
    file.write_text(FILE.replace("projection.kind: [dense, lost]", f"data.path: [{path}]"))
    sweep = read_sweep(file)
    trial = next(sweep.trials({}))
    assert sweep.configuration(trial).data.path == path
    document = Document("", {})
    for text in trial.wanted.overrides:
        override(document, text)
    assert document.values["data"] == {"path": path}


def test_a_search_ends_where_the_configuration_does(file: Path) -> None:
    """A rank as large as the matrix would be doubled, and refused, and the sweep would never come to its end."""
    file.write_text(FILE.replace("optimizer.lr: [1.0e-3, 2.0e-3]", "projection.rank: [4, 8]"))
    done = follow(read_sweep(file), lambda trial: -trial.value)
    tried = {kind: {each.value for each in done if each.name.startswith(kind)} for kind in ("lost-small", "lost-large")}
    assert tried == {"lost-small": {4, 8, 16}, "lost-large": {4, 8, 16, 32}}


@pytest.fixture
def results(file: Path, tmp_path: Path) -> Results:
    """All is done: LOST's runs are better, and each is best at 2e-3; at 4e-3 runs diverge."""
    results = Results(read_sweep(file), tmp_path / "out")
    while pending := [each for each in results.trials() if results.row(each) is None]:
        trial = pending[0]
        config = results.sweep.configuration(trial)
        loss = 3 + abs(trial.value - 2e-3) * 100 - (trial.cell.names["projection.kind"] == "lost") + trial.seed / 70
        make_run(results.folder / trial.name, config, {20: loss})
        answer = {"validation_loss": float("inf") if trial.value > 3e-3 else loss, "bits_per_byte": 1.5, "tokens": 640}
        results.keep(trial.name, answer, 1)
    return results


def test_the_table_has_the_best_of_each_cell_over_seeds(results: Results) -> None:
    head, rows = table(results)
    assert head[:6] == ["projection.kind", "size", "optimizer.lr", "loss", "deviation", "seeds"]
    assert rows[0][:6] == ["lost", "small", "0.002", "2.0500", "0.0707", "2"]
    assert [row[0] for row in rows] == ["lost", "lost", "dense", "dense"]
    write_report(results, "mine")
    text = (results.folder / "table.md").read_text()
    assert "| lost | small | 0.002 | 2.0500 | 0.0707 | 2 | 1.5000 |" in text
    assert "| dense | large | 3.1000 | 3.0000 | diverged |" in text
    assert (results.folder / "loss.png").stat().st_size > 1000


def test_sizes_with_names_are_plotted_by_their_parameters(file: Path, tmp_path: Path) -> None:
    file.write_text(FILE[: FILE.index("search")])
    results = Results(read_sweep(file), tmp_path / "out")
    for trial in results.trials():
        make_run(results.folder / trial.name, results.sweep.configuration(trial), {20: 3.0})
        results.keep(trial.name, {"validation_loss": 3.0, "bits_per_byte": 1.5, "tokens": 640}, 1)
    write_report(results, "mine")
    assert "![loss](loss.png)" in (results.folder / "table.md").read_text()


def test_sensitivity_by_size(results: Results) -> None:
    """By hand: .1, 0 and, diverged, ln 99 instead of infinity, above the best; the smaller model first."""
    rows = sensitivity(results)
    assert [row["cell"]["size"] for row in rows] == ["small", "small", "large", "large"]
    assert [row["best"] for row in rows] == [2e-3] * 4
    for row in rows:
        assert row["values"] == [1e-3, 2e-3, 4e-3]
        assert row["loss"] == (2 if row["cell"]["projection.kind"] == "lost" else 3)
        assert row["sensitivity"] == pytest.approx((0.1 + math.log(99) - row["loss"]) / 3)
    shown = list(sensitivity_lines(rows, results.sweep))
    assert shown[-1] == "the best value moves by a factor 1; excess over 0.001, 0.002, 0.004"
    assert len(shown) == 6


def test_sensitivity_over_what_all_have_tried(results: Results) -> None:
    """One that was best at the edge went on; its further value isn't the others'."""
    moved = {name: row for name, row in results._by_name.items() if row["cell"]["size"] == "small"}
    for row in moved.values():
        row["loss"] = 3 - row["value"] * 100 if row["value"] < 9e-3 else 4.0
    while pending := [each for each in results.trials() if results.row(each) is None]:
        config = results.sweep.configuration(pending[0])
        loss = 3 - pending[0].value * 100 if pending[0].value < 9e-3 else 4.0
        make_run(results.folder / pending[0].name, config, {20: loss})
        results.keep(pending[0].name, {"validation_loss": loss, "bits_per_byte": None, "tokens": 640}, 1)
    rows = sensitivity(results)
    assert {row["cell"]["size"]: row["best"] for row in rows} == {"small": 8e-3, "large": 2e-3}
    assert rows[0]["values"] == [1e-3, 2e-3, 4e-3]
    assert "by a factor 4;" in [*sensitivity_lines(rows, results.sweep)][-1]


def test_a_place_without_a_loss_has_no_sensitivity(results: Results) -> None:
    """Whose runs all diverged: no value is the best, and the mean would be minus infinity."""
    for row in results._by_name.values():
        row["loss"] = None if row["cell"]["projection.kind"] == "lost" else row["loss"]
    while pending := [each for each in results.trials() if results.row(each) is None]:
        make_run(results.folder / pending[0].name, results.sweep.configuration(pending[0]), {20: 3.0})
        results.keep(pending[0].name, {"validation_loss": float("inf"), "bits_per_byte": None, "tokens": 640}, 1)
    assert [row["cell"]["projection.kind"] for row in sensitivity(results)] == ["dense", "dense"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"settings"', '"setting"'), "no name, or no settings"),
        (('"parameters": ', '"parameters": "x", "p": '), "its parameters is no number"),
        (('"parameters": ', '"parameters": null, "p": '), "its parameters is no number"),
        (('"parameters"', '"parametres"'), "its parameters is no number"),
        (('"value"', '"was"'), "its value is no number"),
        (('"loss": ', '"loss": NaN, "l": '), "its loss is no number"),
    ],
)
def test_lines_of_a_stranger(results: Results, change: tuple[str, str], words: str) -> None:
    path = results.folder / LINES
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(ConfigError, match=r"results\.jsonl:1 isn't a sweep's line") as error:
        Results(results.sweep, results.folder)
    assert words in str(error.value)
    results.config.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="its configuration is another"):
        Results(results.sweep, results.folder)


def test_names_that_mean_something_to_markdown_and_mathematics(file: Path, tmp_path: Path) -> None:
    file.write_text(FILE.replace("small:", "'a|b $^$':"))
    results = Results(read_sweep(file), tmp_path / "out")
    for trial in results.trials():
        make_run(results.folder / trial.name, results.sweep.configuration(trial), {20: 3.0})
        results.keep(trial.name, {"validation_loss": trial.value, "bits_per_byte": 1.5, "tokens": 640}, 1)
    write_report(results, "mine")
    assert "| dense | a\\|b $^$ |" in (results.folder / "table.md").read_text()


def test_lines_are_json_and_are_read_again(results: Results) -> None:
    lines = [json.loads(line) for line in (results.folder / LINES).read_text().splitlines()]
    assert {line["loss"] for line in lines if line["value"] > 3e-3} == {None}
    again = Results(results.sweep, results.folder)
    assert again.losses() == results.losses()
    assert [each for each in again.trials() if again.row(each) is None] == []


def test_a_run_that_was_complete_before_has_its_loss_from_its_metrics(file: Path, tmp_path: Path) -> None:
    """As after kill -9 between a run's end and its line: training again has nothing to do, and validates nothing."""
    results = Results(read_sweep(file), tmp_path / "out")
    trial = results.trials()[0]
    make_run(results.folder / trial.name, results.sweep.configuration(trial), {20: 2.5})
    row = results.keep(trial.name, {"validation_loss": None, "bits_per_byte": None, "tokens": 640}, 1)
    assert row["loss"] == 2.5


def test_another_file_does_not_go_on_in_a_folder(results: Results, file: Path) -> None:
    file.write_text(FILE.replace("rank: 4", "rank: 8"))
    with pytest.raises(ConfigError, match="its configuration is another"):
        Results(read_sweep(file), results.folder)
    file.write_text(FILE.replace("model.hidden_size: 16, ", ""))
    with pytest.raises(ConfigError, match="seed0 had other settings"):
        Results(read_sweep(file), results.folder)


def test_other_data_does_not_go_on_in_a_folder(file: Path, tmp_path: Path) -> None:
    """Losses on other text, in other tokens, can't be compared. Lines of before don't say what they read."""
    file.write_text(FILE[: FILE.index("search")])
    results = Results(read_sweep(file), tmp_path / "out", "one")
    trial = results.trials()[0]
    make_run(results.folder / trial.name, results.sweep.configuration(trial), {20: 2.5})
    results.keep(trial.name, {"validation_loss": 2.5, "bits_per_byte": None, "tokens": 640}, 1)
    assert Results(results.sweep, results.folder, "one").row(trial)
    for other in ("another", None):
        with pytest.raises(ConfigError, match=f"read other data \\({trial.name} for one"):
            Results(results.sweep, results.folder, other)
    path = results.folder / LINES
    path.write_text(path.read_text().replace('"data": "one", ', ""))
    assert Results(results.sweep, results.folder, "another").row(trial)


@pytest.mark.parametrize("values", ["[2e-3, 1e-3]", "['0.002', 0.001]"])
def test_yaml_reads_numbers_without_a_point_as_text(file: Path, values: str) -> None:
    file.write_text(FILE.replace("[1.0e-3, 2.0e-3]", values))
    assert read_sweep(file).begins == [1e-3, 2e-3]
