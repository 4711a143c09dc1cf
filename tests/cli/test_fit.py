"""`lost fit` as a user meets it: laws of run folders, what is refused, and what is left out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import tiny_config
from runs import make_run

from lost.checkpoint.state import Origin
from lost.cli.render.fit import comparison_lines
from lost.config import Config
from lost.planning.budget import budget

WIDTHS, STEPS = (16, 32, 64), (100, 200, 400)


def planted(size: float, tokens: float) -> float:
    return 1.5 + 9 * size**-0.3 + 60 * tokens**-0.4


def of_width(width: int, **sections: dict) -> Config:
    model = {"hidden_size": width, "intermediate_size": 2 * width}
    return tiny_config(model=model, **{"projection": {"kind": "dense"}, **sections})


def size_of(config: Config) -> int:
    counts = budget(config)
    return counts.parameters - counts.embeddings


def loss_of(config: Config, step: int) -> float:
    return planted(size_of(config), step * config.tokens_per_step)


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    """A dense run for each width and number of steps."""
    for width in WIDTHS:
        for steps in STEPS:
            config = of_width(width, schedule={"steps": steps})
            make_run(tmp_path / "ladder" / f"{width}-{steps}", config, {steps: loss_of(config, steps)})
    return tmp_path / "ladder"


def constants(answer: str) -> dict[str, float]:
    return {name: each["value"] for name, each in json.loads(answer)["laws"]["parameters"]["constants"].items()}


def test_a_folder_of_runs_has_the_law_that_they_follow(lost: Callable, ladder: Path) -> None:
    """Ends, since cosine's rates decay; a prediction far off says so, on standard error."""
    done = lost("fit", ladder, "--json", "--predict", "5e4,2e4", "--predict", "1e9,2e4")
    assert done.code == 0, done.err
    assert constants(done.out) == pytest.approx({"E": 1.5, "A": 9, "a": 0.3, "B": 60, "b": 0.4}, rel=0.02)
    value = json.loads(done.out)
    assert (value["runs"], value["points"], value["at_peak"]) == (9, 9, False)
    near = value["predictions"][0]
    assert near["loss"] == pytest.approx(planted(5e4, 2e4), rel=1e-3)
    assert near["interval"] == pytest.approx([near["loss"]] * 2, rel=1e-3)  # without noise
    assert "1e9,2e4" in done.err
    assert "5e4,2e4" not in done.err
    shown = lost("fit", ladder, "--predict", "5e4,2e4").out
    assert "9 runs, 9 validations at schedules' ends" in shown
    assert f"loss {near['loss']:.4f}" in shown


def test_level_rates_give_a_loss_a_validation(lost: Callable, tmp_path: Path) -> None:
    """Before wsd's decay and after the warm-up, and after a tenth of a run; with --ends what each came to."""
    for number, width in enumerate((16, 24, 32, 48, 64)):
        wsd = {"name": "wsd", "steps": 400 + 40 * number, "warmup_steps": 80, "decay_steps": 100}
        config = of_width(width, schedule=wsd)
        level = {step: loss_of(config, step) for step in (100, 200, 300)}
        losses = {40: 9.0, **level, wsd["steps"]: 0.9 * loss_of(config, wsd["steps"])}
        make_run(tmp_path / str(width), config, losses)
    done = lost("fit", tmp_path, "--json")
    assert done.code == 0, done.err
    assert constants(done.out) == pytest.approx({"E": 1.5, "A": 9, "a": 0.3, "B": 60, "b": 0.4}, rel=0.02)
    assert (json.loads(done.out)["points"], json.loads(done.out)["at_peak"]) == (15, True)
    ends = json.loads(lost("fit", tmp_path, "--ends", "--json").out)
    assert (ends["points"], ends["at_peak"]) == (5, False)


def test_level_runs_that_came_to_no_end_are_left_out_and_said(lost: Callable, tmp_path: Path) -> None:
    """A search has some that diverge, whose last losses are of a bad rate; where one was to stop is an end as well."""
    level = {"name": "constant", "steps": 400, "warmup_steps": 40}
    for width in (16, 24, 32, 48, 64):
        for steps, stop_after in ((400, None), (300, 300)):
            config = of_width(width, schedule=level, train={"stop_after": stop_after})
            losses = {step: loss_of(config, step) for step in range(100, steps + 1, 100)}
            make_run(tmp_path / f"{width}-{steps}", config, losses)
    diverged = of_width(16, schedule=level, optimizer={"lr": 1.0})
    make_run(tmp_path / "diverged", diverged, {100: 7.0, 200: 8.0})
    done = lost("fit", tmp_path, "--json")
    assert done.code == 0, done.err
    value = json.loads(done.out)
    assert (value["runs"], value["points"], value["at_peak"]) == (10, 5 * (4 + 3), True)
    assert constants(done.out) == pytest.approx({"E": 1.5, "A": 9, "a": 0.3, "B": 60, "b": 0.4}, rel=0.02)
    assert done.err.splitlines() == [
        f"left out: {tmp_path / 'diverged'}: it isn't finished: it has no validation at step 400, where it ends"
    ]


def test_three_runs_are_too_few(lost: Callable, ladder: Path) -> None:
    done = lost("fit", *(ladder / f"{width}-{steps}" for width, steps in zip(WIDTHS, STEPS, strict=True)))
    assert done.code == 2
    assert "3 runs for the law's constants, which take 5: 2 missing" in done.err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": "other"}, "differ in their prepared text"),
        ({"config": {"data": {"seq_len": 16}}}, "differ in data.seq_len (8 and 16)"),
        ({"config": {"projection": {"kind": "lost"}}}, "more than one kind of projection"),
        ({"config": {"schedule": {"name": "constant", "steps": 300}}}, "more than one kind of schedule"),
    ],
)
def test_runs_that_can_not_be_compared_are_named(lost: Callable, ladder: Path, changed: dict, words: str) -> None:
    config = of_width(16, **{"schedule": {"steps": 300}, **changed.get("config", {})})
    make_run(ladder / "odd", config, {300: 3.0}, changed.get("data", "text"))
    done = lost("fit", ladder)
    assert done.code == 2
    assert words in " ".join(done.err.split())
    assert str(ladder / "odd") in done.err


def test_what_is_unfinished_or_unreadable_is_left_out_and_said(lost: Callable, ladder: Path) -> None:
    config = of_width(16, schedule={"steps": 300})
    make_run(ladder / "begun", config, {200: 3.0})
    make_run(ladder / "broken", config, {300: 3.0})
    (ladder / "broken" / "config.yaml").write_text("model: 3")
    done = lost("fit", ladder, "--json")
    assert json.loads(done.out)["runs"] == 9
    assert all(f"left out: {ladder / name}" in done.err for name in ("begun", "broken"))


def test_runs_of_other_weights_than_initial_ones_are_left_out_and_said(lost: Callable, ladder: Path) -> None:
    """But a branch on the same text, which is its source made longer; of versions that didn't say on which, too."""
    tuned = Origin("/a/model", 7, "")
    begun = {
        "tuned": tuned,
        "elsewhere": Origin("/web", 7, "", moments=True, data="web"),
        "later": Origin("/tuned", 7, "", moments=True, data="text", before=tuned),
        "branched": Origin("/stable", 7, "", moments=True, data="text"),
        "early": Origin("/stable", 7, "", moments=True),
    }
    config = of_width(16, schedule={"steps": 300})
    for name, origin in begun.items():
        make_run(ladder / name, config, {300: loss_of(config, 300)}, origin=origin)
    done = lost("fit", ladder, "--json")
    assert json.loads(done.out)["runs"] == 11
    for name, path in (("tuned", "/a/model"), ("elsewhere", "/web"), ("later", "/a/model")):
        assert f"left out: {ladder / name}: it didn't begin with initial weights, but with those of {path}" in done.err
    for path in ladder.iterdir():
        if path.name not in ("tuned", "elsewhere"):
            shutil.rmtree(path)
    refused = lost("fit", ladder)
    assert (refused.code, "no finished run trained a whole model from initial weights" in refused.err) == (2, True)


def test_runs_with_frozen_weights_are_left_out_and_said(lost: Callable, ladder: Path) -> None:
    """Adapters of one model would all have its size."""
    config = of_width(16, projection={"kind": "lora", "rank": 4}, schedule={"steps": 300})
    make_run(ladder / "adapted", config, {300: 2.0})
    done = lost("fit", ladder, "--json")
    assert json.loads(done.out)["runs"] == 9
    assert f"left out: {ladder / 'adapted'}: some of its parameters are frozen" in done.err


def test_what_is_beside_runs_is_left_out_in_one_line(lost: Callable, ladder: Path) -> None:
    """As a shell writes runs/x/*; a path that isn't there is refused as ever."""
    for name in ("a.log", "b.log", "results.jsonl", "table.md"):
        (ladder / name).write_text("not a run")
    (ladder / "empty").mkdir()
    done = lost("fit", *sorted(ladder.iterdir()), "--json")
    assert json.loads(done.out)["runs"] == 9
    lines = done.err.splitlines()
    assert lines == [f"left out, no runs: {ladder / 'a.log'}, {ladder / 'b.log'}, {ladder / 'empty'} and 2 more"]
    refused = lost("fit", *sorted(ladder.iterdir()), ladder / "16-10")
    assert (refused.code, "16-10 holds no run; did you mean" in refused.err) == (2, True)
    assert lost("fit", ladder / "a.log", ladder / "empty").code == 2


def test_a_run_by_another_name_is_the_same_run(lost: Callable, ladder: Path) -> None:
    """Through a link, or a path that goes round: as a second run it would make the intervals too narrow."""
    (ladder / "latest").symlink_to("16-100")
    done = lost("fit", ladder, ladder / ".." / "ladder" / "16-100", "--json")
    assert json.loads(done.out)["runs"] == 9


def test_a_run_of_which_one_checkpoint_is_intact(lost: Callable, ladder: Path) -> None:
    run = make_run(ladder / "more", of_width(16, schedule={"steps": 300}), {300: 3.0})
    shutil.copytree(run / "checkpoints" / "step-00000300", run / "checkpoints" / "step-00000310")
    (run / "checkpoints" / "step-00000310" / "manifest.json").write_text("cut off")
    assert json.loads(lost("fit", ladder, "--json").out)["runs"] == 10
    (run / "checkpoints" / "step-00000300" / "manifest.json").unlink()
    done = lost("fit", ladder)
    assert f"left out: {run}: {run}/checkpoints/step-00000310/manifest.json is damaged" in done.err


def test_rows_of_a_stranger(lost: Callable, ladder: Path) -> None:
    """Numbers that no float holds, and steps of no run, are left out with the run that has nothing else."""
    for loss, step in ((10**400, 300), (3.0, 10**400), (True, 300), (3.0, -300)):
        run = make_run(ladder / "huge", of_width(16, schedule={"steps": 300}), {300: 3.0})
        (run / "metrics.jsonl").write_text(json.dumps({"step": step, "validation_loss": loss}) + "\n")
        done = lost("fit", ladder, "--json")
        assert done.code == 0, done.err
        assert f"left out: {run}: it has no validation yet" in done.err
        shutil.rmtree(run)


def test_level_rates_without_a_validation_at_their_peak(lost: Callable, tmp_path: Path) -> None:
    """Of wsd's runs that were validated at their ends alone, the ends are taken."""
    for width in WIDTHS:
        for steps in STEPS:
            config = of_width(width, schedule={"name": "wsd", "steps": steps, "decay_steps": 20})
            make_run(tmp_path / f"{width}-{steps}", config, {steps: loss_of(config, steps)})
    done = lost("fit", tmp_path, "--json")
    assert done.code == 0, done.err
    assert (json.loads(done.out)["points"], json.loads(done.out)["at_peak"]) == (9, False)


def test_of_a_search_for_a_rate_the_best_is_taken(lost: Callable, ladder: Path) -> None:
    """And both of its seeds, whichever did better."""
    for lr, seed, loss in ((3e-2, 0, 9.0), (1e-2, 1, loss_of(of_width(64), 400))):
        config = of_width(64, schedule={"steps": 400}, optimizer={"lr": lr}, train={"seed": seed})
        make_run(ladder / f"64-400-{lr}", config, {400: loss})
    done = lost("fit", ladder, "--json")
    assert json.loads(done.out)["runs"] == 10
    assert "left out: 1 run of settings that did worse" in done.err


def test_a_teacher_is_a_setting(lost: Callable, ladder: Path) -> None:
    """Which one, at which weight and temperature; without one, what these would be doesn't matter."""
    for number, (identity, weight, loss) in enumerate(
        (("a", 0.5, 9.0), ("a", 0.7, 8.0), ("b", 0.5, 7.0), (None, 0.7, 0.0))
    ):
        config = of_width(64, schedule={"steps": 400}, teacher={"path": identity, "weight": weight})
        make_run(ladder / str(number), config, {400: loss or loss_of(config, 400)}, teacher=identity)
    done = lost("fit", ladder, "--json")
    assert json.loads(done.out)["runs"] == 10
    assert "left out: 3 runs of settings that did worse" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no run was named"),
        (("{}/nowhere",), "holds no run"),
        (("{}", "--predict", "1e6"), "--predict 1e6: expected parameters and tokens"),
        (("{}", "--predict", "-1,5"), "two positive numbers"),
        (("--compare", "dense={}", "lost={}"), "no finished run of kind lost"),
        (("--compare", "dense={}", "dense={}"), "names dense twice"),
        (("--compare", "dense", "lost={}"), "expected KIND=RUNS twice"),
        (("{}", "--compare", "dense={}", "lost={}"), "--compare names all runs itself"),
    ],
)
def test_what_can_not_be_fitted_is_refused(
    lost: Callable, ladder: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = lost("fit", *(each.format(ladder) for each in arguments))
    assert done.code == 2
    assert words in " ".join(done.err.split())


def test_two_kinds_of_one_folder_are_compared(lost: Callable, ladder: Path) -> None:
    """LOST is made to gain less from tokens, and to be ahead of dense before 40,000 of them."""
    for width in WIDTHS:
        for steps in STEPS:
            config = of_width(width, schedule={"steps": steps}, projection={"kind": "lost"})
            own, tokens = planted(size_of(of_width(width)), steps * 32), steps * 32
            shifted = own + 60 * 40_000**-0.4 - 60 * tokens**-0.4 - 40 * 40_000**-0.4 + 40 * tokens**-0.4
            make_run(ladder / f"lost-{width}-{steps}", config, {steps: shifted})
    done = lost("fit", "--compare", f"dense={ladder}", f"lost={ladder}", "--json")
    assert done.code == 0, done.err
    value = json.loads(done.out)
    tokens = value["crossings"][0]
    assert (tokens["unit"], tokens["ahead"]) == ("tokens", "dense")
    assert tokens["at"] == pytest.approx(40_000, rel=0.1)
    assert [each["kind"] for each in value["compared"]] == ["dense", "lost"]
    assert value["effective_size"]["ratio"] > 1
    shown = "\n".join(comparison_lines(value))
    assert "dense and lost cross at" in shown
    assert "3.1 times beyond what was trained" in shown
