"""`lost report` and `lost plot`: what is drawn, that it needs nothing else, and that strangers' words stay words."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lost.data.dataset import Dataset
from lost.model.inspect import LayerReport
from lost.report.curves import ACROSS, Curve, curve
from lost.report.page import _by_projection
from lost.report.plots import COLOURS, spectra_svg
from lost.report.story import Layers, read_stories

Lost = Callable[..., Any]
HOSTILE = "<script>alert(1) $x$ $"


RUNS = (("a", "torch", (15, 20), "lost"), ("b", "torch", (20,), "dense"), (HOSTILE, "mlx", (10,), "lost"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "runs"


@pytest.fixture
def runs(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, made: Path) -> list[Path]:
    """LOST, stopped and resumed; dense; and a LOST run by MLX, with a name that isn't nice. Made once, and copied."""
    for name, backend, stops, kind in () if made.exists() else RUNS:
        for stop in stops:
            sets = ("train.eval_every=5", f"projection.kind={kind}", f"train.stop_after={stop}",
                    "train.inspect_every=5", f"data.also_evaluate.other={prepared.path}")  # fmt: skip
            answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", made / name, "--backend", backend,
                          "--device", "cpu", *(word for each in sets for word in ("--set", each)))  # fmt: skip
            assert answer.code == 0, answer.err
    shutil.copytree(made, tmp_path / "runs")
    return [tmp_path / "runs" / name for name, *_ in RUNS]


def test_a_report_of_three_runs(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    answer = lost("report", *runs, "--out", tmp_path / "report.html", "--json")
    assert answer.code == 0, answer.err
    text = (tmp_path / "report.html").read_text()
    assert json.loads(answer.out)["bytes"] == len(text.encode()) < 3_000_000
    # It needs nothing from elsewhere, and runs nothing.
    assert not re.search(r"<script|<link|<img|<iframe|\ssrc=|\son\w+=|@import|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"\s]*", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "&lt;script&gt;alert(1)" in text
    # Loss against four things; rate, norm, speed, memory, saves; of each run layers.
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert all(figure.count("<path") > 5 for figure in figures)
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert titles[:8] == ["training loss"] * 4 + ["validation loss"] * 4
    assert {"learning rate", "gradient norm", "tokens a second", "memory (GiB)"} <= set(titles)
    assert [text.count(f">{name}</text>") for name in ("effective rank", "sparse part's share")] == [3, 2]
    assert text.count("Which input channels are kept") == 2
    for number in range(3):  # a colour a run, in each of the loss plots
        assert all(f"var(--run{number})" in figure for figure in figures[:8])
    # What was measured in training: losses on further sets, and of each run's own layers a line a block or projection.
    assert titles.count("validation loss, other") == titles.count("largest logit") == 1
    inspected = dict(
        re.findall(
            r"<figcaption>([^<]*(?:s output|, (?:mean )?of all blocks|mean of all blocks))</figcaption>(.*?)</figure>",
            text,
            re.DOTALL,
        )
    )
    assert len(inspected) == 3
    assert [titles.count(title) for title in inspected] == [3, 3, 3]
    names = [set(re.findall(r">([a-z]+(?: \d)?)</text>", svg)) - {"steps"} for svg in inspected.values()]
    assert names == [{"block 0", "block 1"}, *2 * [{"q", "k", "v", "o", "gate", "up", "down"}]]
    # What differs, and how it was made.
    (table,) = re.findall(r"What differs.*?</table>", text, re.DOTALL)
    assert re.findall(r"<tr><th>([^<]+)</th>", table) == ["projection.kind", "train.stop_after"]
    assert "<td>2 times</td>" in text
    assert "20 of 20" in text
    assert re.search(r"<pre>.*lost train .*--out \S*/runs/a ", text)


def test_without_checkpoints_the_page_says_why(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    shutil.rmtree(runs[0] / "checkpoints")
    answer = lost("report", runs[0], "--out", tmp_path / "report.html")
    assert answer.code == 0, answer.err
    text = (tmp_path / "report.html").read_text()
    assert "holds no usable checkpoint" in text
    assert "training loss" in text
    assert lost("report", runs[1], "--out", tmp_path / "report.html", "--no-layers").code == 0
    assert "Singular values" not in (tmp_path / "report.html").read_text()


def test_a_run_without_its_configuration_is_named(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "config.yaml").unlink()
    answer = lost("report", runs[0].parent, "--out", tmp_path / "report.html", "--no-layers")
    assert answer.code == 2
    assert f"{runs[0]} holds no config.yaml" in answer.err


def test_rows_of_a_stranger(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    """Texts and lists where numbers belong are left out; markup in a log is shown as it stands."""
    rows = [
        {"step": 21, "loss": "<b>", "lr": [1], "seconds": {}, "memory_bytes": True},
        {"step": 22, "validation_loss": "x"},
        {"step": 23, "loss": None},
        {"step": 24, "loss": 10**400, "lr": 10**400},
        {"step": 25, "effective_rank": {"x.q_proj": "x", "y.q_proj": [1], "z.q_proj": 10**400}},
        {"step": 26, "loss": 1.7e308, "grad_norm": -1.7e308, "validation_loss": 1e308},
        {"step": 10**400, "loss": 3.0},
        {
            "step": 27,
            "activation_rms": {"\ud800 $^$": 1.0},
            "validation_loss": 3.0,
            "also_evaluated": {"\ud800": {"loss": 1}},
        },
    ]
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with (runs[0] / "log.txt").open("a") as file:
        file.write("2026-01-01T00:00:00+0000 lost 1, process 1 on x: lost train <svg onload=alert(1)>\n")
    answer = lost("report", runs[0], "--out", tmp_path / "report.html", "--no-layers")
    assert answer.code == 0, answer.err
    assert "<svg onload" not in (tmp_path / "report.html").read_text()
    assert lost("plot", runs[0], "-o", tmp_path / "loss.png").code == 0
    assert lost("plot", runs[0]).code == 0


def test_names_of_strangers(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    """Bytes that aren't UTF-8, what steers a terminal or an eye, mathematics, letters that no font here has."""
    named = runs[1].rename(runs[1].with_name("\udcff\x1b[31m\u202e$^$漢字" + "x" * 200))
    for arguments in (
        ("report", "--no-layers", "-o", tmp_path / "a.html"),
        ("plot", "-o", tmp_path / "a.png"),
        ("plot",),
    ):
        answer = lost(arguments[0], runs[0], named, *arguments[1:])
        assert (answer.code, answer.err) == (0, "")
        assert not set("\x1b\u202e\udcff") & set(answer.out)
    assert not set("\x1b\u202e") & set((tmp_path / "a.html").read_text())


def test_a_field_of_a_stranger_is_no_mathematics(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "a$^$": 1}\n')
    answer = lost("plot", runs[0], "--y", "a$^$", "-o", tmp_path / "a.svg")
    assert answer.code == 0, answer.err
    assert "a$^$" in (tmp_path / "a.svg").read_text()


def test_what_a_logarithm_does_not_show_is_left_out(lost: Lost, runs: list[Path]) -> None:
    """As of a noise scale, which few measurements may give as negative; with nothing else the axis is linear."""
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.writelines(
            json.dumps({"step": step, "noise_scale": step - 23.5, "zero": 0}) + "\n" for step in (22, 23, 24)
        )
    answer = lost("plot", runs[0], "--y", "noise_scale", "--x", "steps")
    assert answer.code == 0, answer.err
    assert "22" not in answer.out
    rows = [{"step": step, "grad_norm": 0} for step in (1, 2)]
    (runs[0] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert lost("plot", runs[0], "--y", "grad_norm").code == 0


def test_a_count_that_stayed_0_is_plotted_where_it_is_asked_for(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    """The page leaves it out."""
    answer = lost("plot", *runs[:2], "--y", "skipped", "-o", tmp_path / "a.svg")
    assert (answer.code, answer.err) == (0, "")
    svg = (tmp_path / "a.svg").read_text()
    assert {">a<", ">b<"} <= set(re.findall(r">[ab]<", svg))
    assert all(f"stroke: {colour}" in svg for colour in COLOURS[:2])
    assert lost("report", *runs[:2], "--no-layers", "-o", tmp_path / "a.html").code == 0
    assert "updates left out</figcaption>" not in (tmp_path / "a.html").read_text()


def test_memory_is_in_the_unit_of_its_title(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    """In a picture and in the terminal."""
    rows = [{"step": step, "loss": 1.0, "memory_bytes": step * 2**30} for step in (3, 5)]
    (runs[0] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert lost("plot", runs[0], "--y", "memory_bytes", "-o", tmp_path / "a.svg").code == 0
    for shown in (lost("plot", runs[0], "--y", "memory_bytes").out, (tmp_path / "a.svg").read_text()):
        assert "memory (GiB)" in shown
        assert {"3.0", "5.0"} <= {found[:3] for found in re.findall(r"\d\.\d+", shown)}
        assert "3221225472" not in shown


def test_a_block_without_a_value_moves_no_other() -> None:
    """As where some layers of a projection have no sparse part."""
    reports = [
        LayerReport(f"model.layers.{block}.mlp.up_proj", kind, (4, 4), 2, None, 1.0, 1.0, 2.0, share, np.ones(2))
        for block, kind, share in ((0, "lowrank", None), (1, "lost", 0.25), (2, "lowrank", None), (3, "lost", 0.5))
    ]
    lines = dict(_by_projection(Layers(1, reports, {})))
    assert list(lines["norm"]["up"].x) == [0, 1, 2, 3]
    sparse = lines["sparse part's share"]["up"]
    assert [*zip(sparse.x, sparse.y, strict=True)] == [(1, 0.25), (3, 0.5)]


def test_more_runs_than_colours_have_lines_of_another_style(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    for number in range(len(COLOURS) - len(runs) + 1):
        shutil.copytree(runs[0], runs[0].with_name(f"{number}"))
    assert lost("plot", runs[0].parent, "--x", "steps", "-o", tmp_path / "a.svg").code == 0
    dashed = re.findall(r"stroke-dasharray[^\"]*stroke: (#\w+)", (tmp_path / "a.svg").read_text())
    assert set(dashed) == {COLOURS[0]}
    assert lost("report", runs[0].parent, "--no-layers", "-o", tmp_path / "a.html").code == 0
    legends = re.findall(r"border-top-style: (\w+); border-top-color: var\((.*?)\)", (tmp_path / "a.html").read_text())
    one = [*(("solid", f"--run{number}") for number in range(8)), ("dashed", "--run0")]
    assert legends == 2 * one


def test_samples(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    """Newest first; markup and what steers a reader's eye as it stands; what isn't text is left out."""
    rows: list[dict[str, Any]] = [
        {"step": step, "texts": [{"prompt": "<b>a", "text": f"{step}\u202e<script>"}, {"prompt": 3, "text": "no"}, 4]}
        for step in range(30)
    ]
    rows += [{"step": 31, "texts": "x"}, {"step": 32, "texts": [{"prompt": "", "text": "y" * 500_000}]}]
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    answer = lost("report", *runs[:2], "--out", tmp_path / "report.html", "--no-layers")
    assert answer.code == 0, answer.err
    text = (tmp_path / "report.html").read_text()
    steps = re.findall(r"<summary>step (\d+)</summary>", text)
    assert steps == ["32", *map(str, range(29, 10, -1))]
    assert '<pre class="sample"><b>&lt;b&gt;a</b>29\\u202e&lt;script&gt;</pre>' in text
    assert text.count("y" * 100) < 100
    assert text.count("<h2>Samples</h2>") == 1
    assert lost("report", runs[1], "--out", tmp_path / "report.html", "--no-layers").code == 0
    assert "<h2>Samples" not in (tmp_path / "report.html").read_text()


def test_what_no_logarithm_shows() -> None:
    """A layer that starts at zero has no singular values above it."""
    assert spectra_svg([np.zeros(4), np.zeros(4)]).startswith("<svg")


def test_curves(runs: list[Path]) -> None:
    story = read_stories(runs)[0]
    rows = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    steps = curve(story, story.rows, "loss", ACROSS["steps"])
    assert dict(zip(steps.x, steps.y, strict=True)) == losses
    tokens = curve(story, story.rows, "validation_loss", ACROSS["tokens"])
    assert list(tokens.x) == [step * 4 * 16 for step in (5, 10, 15, 20)]
    flops = curve(story, story.rows, "validation_loss", ACROSS["flops"])
    np.testing.assert_allclose(flops.x, tokens.x * story.flops_per_token)
    hours = curve(story, story.rows, "validation_loss", ACROSS["hours"])
    seconds = {row["step"]: row["seconds"] for row in rows if "loss" in row}
    np.testing.assert_allclose(hours.x, [seconds[step] / 3600 for step in (5, 10, 15, 20)])


def test_long_curves() -> None:
    """As many points as can be seen, each a mean; the running mean starts where the curve does."""
    x = np.arange(10_001.0)
    thin = Curve(x, 3 * x).thinned()
    assert len(thin.x) <= 1200
    np.testing.assert_allclose(thin.y, 3 * thin.x)
    assert thin.x.mean() == pytest.approx(x.mean(), rel=1e-3)
    level = Curve(x, np.full_like(x, 7)).smoothed()
    np.testing.assert_allclose(level.y, 7)
    noisy = Curve(x, np.random.default_rng(0).normal(5, 1, len(x))).smoothed()
    assert noisy.y[len(x) // 2 :].std() < 0.1


def test_names_tell_runs_apart(runs: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "others" / "a"
    shutil.copytree(runs[0], twin)
    assert [story.name for story in read_stories([runs[0], twin])] == ["runs/a", "others/a"]
    assert [story.name for story in read_stories([runs[0], runs[1], runs[0]])] == ["a", "b"]
    assert [story.folder for story in read_stories([runs[0].parent])] == sorted(runs)


def test_a_plot_in_a_file(lost: Lost, runs: list[Path], tmp_path: Path) -> None:
    for name, start in (("loss.png", b"\x89PNG"), ("loss.svg", b"<?xml"), ("loss.pdf", b"%PDF")):
        answer = lost("plot", *runs, "-o", tmp_path / name)
        assert answer.code == 0, answer.err
        assert (tmp_path / name).read_bytes().startswith(start)
    svg = (tmp_path / "loss.svg").read_text()
    assert "validation loss" in svg
    assert ">tokens<" in svg
    assert "&lt;script&gt;" in svg


def test_a_plot_in_the_terminal(lost: Lost, runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("LINES", "20")
    answer = lost("plot", *runs[:2], "--y", "lr", "--x", "steps")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 70
    assert "learning rate" in lines[0]
    assert "\x1b" not in answer.out
    assert {"a", "b"} <= set(answer.out.split())
    assert "colours" not in answer.err
    for number in range(9 - len(runs)):
        shutil.copytree(runs[0], runs[0].with_name(f"{number}"))
    note = lost("plot", *(runs[0].parent.iterdir()), "--y", "lr").err
    assert (
        "9 runs share 8 colours; name fewer, or draw them to a file with --out, where lines of 24 runs differ" in note
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report", "{runs}/c"), "c holds no run; expected what `lost train` wrote, or a folder of such"),
        (("plot", "{runs}/a", "--y", "losses"), "--y losses: none of these runs has reported it; did you mean 'loss'"),
        (("plot", "{runs}/a", "--x", "step"), "--x step: did you mean 'steps'?"),
        (("plot", "{runs}/a", "-o", "{runs}/loss.xyz"), "loss.xyz: no picture of this type can be written"),
        (("report", "{runs}/a", "-o", "{runs}/none/report.html"), "there is no folder"),
        (("report", "{runs}/a", "-o", "."), "--out .: it is a folder; expected a file's name"),
        (("report", "{runs}/a", "-o", "{runs}"), "it is a folder; expected a file's name"),
        (
            ("plot", "{runs}/untimed", "--x", "hours"),
            "--x hours: where validation_loss was reported, hours of training",
        ),
        (("plot", "{runs}/empty"), "none of these runs has reported it; they have: nothing"),
    ],
)
def test_bad_input(lost: Lost, runs: list[Path], arguments: tuple[str, ...], words: str) -> None:
    for name, text in (("empty", ""), ("untimed", '{"step": 1, "validation_loss": 3.0}\n')):
        shutil.copytree(runs[0], runs[0].with_name(name), ignore=shutil.ignore_patterns("checkpoints"))
        (runs[0].with_name(name) / "metrics.jsonl").write_text(text)
    answer = lost(*(each.replace("{runs}", str(runs[0].parent)) for each in arguments))
    assert answer.code == 2
    assert words in answer.err


def test_without_the_extra(lost: Lost, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    answer = lost("report", runs[0], "--out", tmp_path / "report.html")
    assert answer.code == 2
    assert "pip install -c constraints.txt -e '.[report]'" in answer.err
