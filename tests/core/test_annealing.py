"""The loss by the schedule: planted constants come back, another schedule is foretold, what can't be is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_config
from runs import make_run

from lost.config import Config
from lost.model.load import dump
from lost.optim.rates.schedule import learning_rate
from lost.scaling.annealing import AnnealingLaw

PLANTED = AnnealingLaw(L0=2.0, A=1.2, a=0.45, B=30.0, C=2.0)
CONSTANT, WSD = {"name": "constant", "steps": 600}, {"name": "wsd", "steps": 600, "decay_steps": 150}
COSINE, LINEAR = {"name": "cosine", "steps": 800}, {"name": "linear", "steps": 400}


def under(schedule: dict, **sections: dict) -> Config:
    return tiny_config(schedule={"warmup_steps": 40, **schedule}, **sections)


def run(folder: Path, schedule: dict, noise: float = 0.0, **sections: dict) -> Path:
    """A run whose losses follow the planted law, written out step by step."""
    config = under(schedule, **sections)
    random, losses = np.random.default_rng(len(folder.name)), {}
    rates = [
        learning_rate(config.optimizer, config.schedule, step) for step in range(1, config.schedule.total_steps + 1)
    ]
    for step in range(25, len(rates) + 1, 25):
        brought = 0.0
        for k in range(41, step + 1):
            since = sum(rates[k - 1 : step]) / rates[k - 1] ** 0.5
            brought += (rates[k - 2] - rates[k - 1]) * (1 - (1 + PLANTED.C * since) ** -0.5)
        loss = PLANTED.L0 + PLANTED.A * sum(rates[:step]) ** -PLANTED.a - PLANTED.B * brought
        losses[step] = loss * (1 + noise * random.standard_normal())
    return make_run(folder, config, losses)


def fitted(lost: Callable, *arguments: object) -> dict:
    done = lost("fit", *arguments, "--annealing", "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_runs_that_tell_nothing_do_not_hinder_those_that_do(lost: Callable, tmp_path: Path) -> None:
    """One that ended in its warm-up; one with a step beyond its end, as a stranger may write it."""
    for name, schedule in {"constant": CONSTANT, "wsd": WSD}.items():
        run(tmp_path / name, schedule)
    points = fitted(lost, tmp_path)["points"]
    make_run(tmp_path / "begun", under(WSD), {20: 4.0})
    with (tmp_path / "wsd" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 601, "validation_loss": 3.0}) + "\n")
    value = fitted(lost, tmp_path)
    assert value["points"] == points
    assert [each["step"] for each in value["held_out"]] == [600]


def test_planted_constants_come_back_and_foretell_other_schedules(lost: Callable, tmp_path: Path) -> None:
    for name, schedule in {"constant": CONSTANT, "wsd": WSD}.items():
        run(tmp_path / "runs" / name, schedule)
    expected = {}
    for name, schedule in {"cosine": COSINE, "linear": LINEAR}.items():
        (tmp_path / f"{name}.yaml").write_text(dump(under(schedule)))
        folder = run(tmp_path / name, schedule)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        expected[str(tmp_path / f"{name}.yaml")] = rows[-1]["validation_loss"]
    asked = [word for name in expected for word in ("--predict-schedule", name)]
    value = fitted(lost, tmp_path / "runs", *asked)
    assert value["law"] == pytest.approx({"L0": 2.0, "A": 1.2, "a": 0.45, "B": 30.0, "C": 2.0}, rel=0.02)
    assert {each["schedule"]: each["loss"] for each in value["predictions"]} == pytest.approx(expected, rel=1e-3)
    # Without wsd, constant doesn't tell what a fall brings; so the one that is held out is constant.
    assert [(each["schedule"], each["step"]) for each in value["held_out"]] == [("constant", 600)]
    assert value["held_out"][0]["error"] < 1e-3
    shown = lost("fit", tmp_path / "runs", "--annealing", *asked).out
    assert "held out: a run's end from all others" in shown
    assert f"{tmp_path / 'cosine.yaml'}, 800 steps: loss {value['predictions'][0]['loss']:.4f}" in shown


def test_with_noise_the_held_out_schedule_is_near(lost: Callable, tmp_path: Path) -> None:
    for name, schedule in {"wsd": WSD, "cosine": COSINE, "linear1": LINEAR}.items():
        run(tmp_path / "runs" / name, schedule, noise=0.003)
    value = fitted(lost, tmp_path / "runs")
    assert len(value["held_out"]) == 3
    for each in value["held_out"]:
        assert each["error"] == pytest.approx(abs(each["predicted"] / each["loss"] - 1))
        assert 0 < each["error"] < 0.02


def test_one_run_holds_its_own_end_out(lost: Callable, tmp_path: Path) -> None:
    (tmp_path / "linear.yaml").write_text(dump(under(LINEAR)))
    value = fitted(lost, run(tmp_path / "cosine", COSINE), "--predict-schedule", tmp_path / "linear.yaml")
    assert [(each["step"], each["error"] < 0.01) for each in value["held_out"]] == [(800, True)]
    assert value["predictions"][0]["steps"] == 400


def test_a_length_in_tokens_is_of_the_runs_batches(lost: Callable, tmp_path: Path) -> None:
    (tmp_path / "tokens.yaml").write_text(
        dump(under({"steps": None, "tokens": 6400}, train={"batch_size": 2, "micro_batch_size": 1}))
    )
    value = fitted(lost, run(tmp_path / "cosine", COSINE), "--predict-schedule", tmp_path / "tokens.yaml")
    assert value["predictions"][0]["steps"] == 200  # of 4 x 8 tokens


@pytest.mark.parametrize(
    ("schedules", "sections", "arguments", "words"),
    [
        ([CONSTANT], {}, (), "the rate has fallen before no validation"),
        ([COSINE, WSD], {"optimizer": {"lr": 2e-2}}, (), "differ in optimizer.lr = 0.02, was 0.01"),
        ([{"name": "cosine", "steps": 120}], {}, (), "3 validations after the warm-up"),
        ([COSINE], {}, ("--predict", "1e6,1e6"), "leave out --compare, --predict and --ends"),
        ([COSINE], {}, ("--predict-schedule", "{}/epochs.yaml"), "schedule.epochs = 2.0"),
        ([COSINE], {}, ("--predict-schedule", "{}/endless.yaml"), "schedule.steps = 1,000,000,000: the rates"),
        ([COSINE], {}, ("--predict-schedule", "nowhere"), "no configuration 'nowhere'"),
    ],
)
def test_refused(
    lost: Callable, tmp_path: Path, schedules: list[dict], sections: dict, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "epochs.yaml").write_text(dump(under({"steps": None, "epochs": 2})))
    (tmp_path / "endless.yaml").write_text(dump(under({"steps": 10**9})))
    for number, schedule in enumerate(schedules):
        run(tmp_path / "runs" / str(number), schedule, **(sections if number else {}))
    done = lost("fit", tmp_path / "runs", "--annealing", *(each.format(tmp_path) for each in arguments))
    assert done.code == 2
    assert words in " ".join(done.err.split())


def test_a_schedule_alone_is_no_question(lost: Callable, tmp_path: Path) -> None:
    done = lost("fit", tmp_path, "--predict-schedule", "quickstart")
    assert done.code == 2
    assert "without --annealing" in done.err
