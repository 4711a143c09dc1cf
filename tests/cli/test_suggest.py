"""`lost plan --suggest`: numbers worked out by hand, a command that means what was suggested, what is refused."""

import itertools
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import tiny_config
from runs import make_run

from lost.config import Config
from lost.data.dataset import Dataset
from lost.model.load import dump, load_config, shipped
from lost.model.parameters import projections
from lost.planning.budget import budget
from lost.scaling.rules import critical_batch, round_batch, step_law_batch, step_law_rate, worth
from lost.scaling.shapes import resized, shapes
from lost.scaling.suggestion import Suggestion, reading

SPEED = 1e4


@pytest.fixture(autouse=True)
def _speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.originalname != "test_speed_is_measured":
        monkeypatch.setattr("lost.bench.trial.tokens_per_second", lambda config, backend, device: SPEED)


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    """A dense model 32 wide; its warm-up is a fifth, its micro-batch divides few batches."""
    path = tmp_path / "mine.yaml"
    path.write_text(dump(dense(32)))
    return path


def dense(width: int, **sections: dict) -> Config:
    model = {"hidden_size": width, "intermediate_size": 2 * width}
    return tiny_config(**{"projection": {"kind": "dense"}, **sections, "model": model | sections.get("model", {})})


def size_of(config: Config) -> int:
    return budget(config).parameters - budget(config).embeddings


def suggested(lost: Callable, *arguments: object) -> dict:
    done = lost("plan", *arguments, "--suggest", "--device", "cpu", "--backend", "torch", "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_rules() -> None:
    """Against the study of docs/experiments.md, and by hand."""
    for size, best in ((3.17e6, 1.5e-3), (1.36e6, 3e-3)):
        assert 2.15 < step_law_rate(size, 2.05e6) / best < 2.45
    assert step_law_batch(2.05e6) == pytest.approx(2330, rel=1e-3)
    assert [worth(each) for each in (0.5, 1.0, 4.0, 1e9)] == pytest.approx([0.5, 1, 3.7256, 16.3878], rel=1e-4)
    assert critical_batch(3.0) == pytest.approx(2.1e8 / 3 ** (1 / 0.21))
    assert [round_batch(each) for each in (0.01, 1, 5, 10, 100, 360)] == [1, 1, 6, 12, 96, 384]


def test_sizes_keep_their_proportions() -> None:
    wider = resized(load_config("quickstart"), 8, 9)
    model = wider.model
    assert (model.hidden_size, model.intermediate_size, model.num_hidden_layers) == (512, 1376, 9)
    assert (model.num_attention_heads, model.num_key_value_heads, wider.projection.rank) == (8, None, 128)
    grouped = tiny_config(projection={"overrides": {"*.down_proj": {"rank": 2}}})
    half = resized(grouped, 1, 1)
    assert (half.model.hidden_size, half.model.num_attention_heads, half.model.num_key_value_heads) == (8, 2, 1)
    assert (half.projection.rank, half.projection.overrides) == (2, {"*.down_proj": {"rank": 1}})


@pytest.mark.parametrize("name", shipped())
def test_every_size_of_what_is_shipped_is_a_model(name: str) -> None:
    config = load_config(name)
    found = list(shapes(config))
    assert config in found
    for each in (found[0], found[-1]):
        projections(each.replace("model", num_hidden_layers=1))  # whose ranks are checked


@pytest.mark.parametrize(
    ("optimizer", "power"),
    [
        ({"name": "adamw"}, -0.713),
        ({"name": "muon"}, -0.713 / 2),  # whose rates go as 1/sqrt(width), not 1/width
        ({"name": "muon", "scale": "spectral"}, 0),
        ({"name": "spectron"}, 0),
    ],
)
def test_rate_and_batch_are_in_proportion_to_a_tuned_run(
    lost: Callable, yaml: Path, tmp_path: Path, optimizer: dict, power: float
) -> None:
    batch = {"batch_size": 8, "micro_batch_size": 8}
    proxy = dense(16, optimizer={"lr": 4e-2} | optimizer, schedule={"steps": 1000}, train=batch)
    make_run(tmp_path / "tuned", proxy, {1000: 3.0})
    yaml.write_text(dump(dense(32, optimizer=optimizer)))
    value = suggested(lost, yaml, "--tokens", "640000", "--from", tmp_path / "tuned")
    size, tokens = value["parameters"]["without_embeddings"], value["tokens"]
    assert 640_000 <= tokens < 640_000 + value["batch_tokens"]
    assert tokens == value["steps"] * value["batch_size"] * 8
    assert value["batch_size"] == 32  # 8 x 10^.571 = 29.8
    assert value["lr"] == pytest.approx(4e-2 * (size / size_of(proxy)) ** power * 10**0.307, rel=0.01)
    assert value["tokens_per_parameter_without_embeddings"] == pytest.approx(20, rel=0.6)  # sizes are steps apart
    assert value["warmup_steps"] == pytest.approx(0.2 * value["steps"], abs=1)
    assert value["seconds"] == pytest.approx(tokens / SPEED)
    assert value["critical_batch_tokens"] == pytest.approx(critical_batch(3.0))
    assert value["loss"] is None  # of one run there is no law


def test_another_batch_is_not_taken_at_once(lost: Callable, yaml: Path) -> None:
    """It was the smaller one that fitted the device."""
    whole = "train.micro_batch_size=null"
    value = suggested(lost, yaml, "--tokens", "640000", "--set", whole)
    overrides = [word for before, word in itertools.pairwise(shlex.split(value["command"])) if before == "--set"]
    made = load_config(yaml, overrides)
    assert (made.train.batch_size, made.train.micro_batch_size) == (128, "auto")
    same = suggested(lost, yaml, "--tokens", "640000", "--set", whole, "--set", "train.batch_size=128")
    assert whole in shlex.split(same["command"])


def test_the_command_is_the_suggestion(lost: Callable, yaml: Path, prepared: Dataset) -> None:
    """Its settings make the run; what the user set and it doesn't change stays; rates keep their proportions."""
    sets = ("--set", "train.grad_clip=0.5", "--set", "optimizer.lr=1", "--set", "optimizer.head_lr=0.5",
            "--set", "model.vocab_size=400")  # fmt: skip
    value = suggested(lost, yaml, "--hours", "0.5", "--data", prepared.path, *sets)
    words = shlex.split(value["command"])
    assert words[:5] == ["lost", "train", str(yaml), "--data", str(prepared.path)]
    overrides = [word for before, word in itertools.pairwise(words) if before == "--set"]
    assert overrides.count("train.grad_clip=0.5") == 1
    assert not [word for word in overrides if word == "optimizer.lr=1"]
    made = load_config(yaml, overrides)
    assert (made.model.hidden_size, made.train.batch_size) == (value["model"]["hidden_size"], value["batch_size"])
    assert (made.schedule.steps, made.schedule.warmup_steps) == (value["steps"], value["warmup_steps"])
    assert (made.optimizer.lr, made.optimizer.head_lr) == (value["lr"], pytest.approx(value["lr"] / 2, rel=0.01))
    assert value["tokens"] == pytest.approx(SPEED * 1800, rel=0.01)
    windows = prepared.split("train").tokens // 8
    epochs = value["tokens"] / 8 / windows
    assert value["reading"]["epochs"] == [pytest.approx(epochs, rel=0.01)]
    assert value["reading"]["fresh_tokens"] == pytest.approx(value["tokens"] * worth(epochs) / epochs, rel=0.01)


def test_a_law_of_runs_chooses_the_size(lost: Callable, yaml: Path, tmp_path: Path) -> None:
    """Where tokens have given what they have, a larger one than where size has."""

    def made(name: str, loss: Callable[[float, float], float]) -> Path:
        for width in (16, 32, 64):
            for steps in (100, 200, 400):
                config = dense(width, schedule={"steps": steps})
                make_run(tmp_path / name / f"{width}-{steps}", config, {steps: loss(size_of(config), steps * 32)})
        return tmp_path / name

    sizes = {}
    for name, powers in {"small": (0.5, 0.1), "large": (0.1, 0.5)}.items():
        a, b = powers

        def law(size: float, tokens: float, a: float = a, b: float = b) -> float:
            return 1.5 + 9 * size**-a + 9 * tokens**-b

        value = suggested(lost, yaml, "--hours", "0.01", "--from", made(name, law))
        size = value["parameters"]["without_embeddings"]
        assert value["loss"] == pytest.approx(law(size, value["tokens"]), rel=0.02)
        assert value["interval"][0] <= value["loss"] <= value["interval"][1]
        sizes[name] = size
    assert sizes["large"] > 4 * sizes["small"]


@pytest.mark.parametrize("length", ["schedule.steps=500", "schedule.tokens=16000", "schedule.epochs=2"])
def test_warm_up_and_decay_stay_shares_of_the_run(lost: Callable, yaml: Path, length: str) -> None:
    """Of 500 steps, however that is said; epochs aren't counted, and leave the number of steps, as far as they go."""
    sets = (length, "schedule.name=wsd", "schedule.warmup_steps=50", "schedule.decay_steps=250")
    value = suggested(lost, yaml, "--tokens", "4000", "schedule.steps=null", *sets)
    words = shlex.split(value["command"])
    made = load_config(yaml, [word for before, word in itertools.pairwise(words) if before == "--set"]).schedule
    steps = value["steps"]
    assert (made.steps, made.warmup_steps) == (steps, round(0.1 * steps))
    assert made.decay_steps == (min(250, steps - made.warmup_steps) if "epochs" in length else round(steps / 2))


def test_as_many_runs_as_constants_leave_no_interval(lost: Callable, yaml: Path, tmp_path: Path) -> None:
    """The loss has no brackets then; and wsd's runs that were validated at their ends alone serve as well."""
    for width, steps in ((16, 100), (32, 200), (64, 400), (16, 400), (64, 100)):
        config = dense(width, schedule={"name": "wsd", "steps": steps})
        make_run(tmp_path / "runs" / f"{width}-{steps}", config, {steps: 1.5 + 9 / size_of(config) ** 0.3 + 9 / steps})
    done = lost("plan", yaml, "--suggest", "--device", "cpu", "--backend", "torch", "--from", tmp_path / "runs")
    assert done.code == 0, done.err
    assert re.search(r"^loss +\d\.\d{3}, by the law of those runs$", done.out, re.MULTILINE)


def test_in_a_narrow_terminal_the_command_stays_one_line(
    lost: Callable, yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, a shell would take its parts as commands of their own."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = lost("plan", yaml, "--suggest", "--device", "cpu", "--backend", "torch").out.splitlines()
    assert shown[-1].startswith("lost train ")
    assert shown[-1].count("--set") >= 3
    assert max(map(len, shown[:-1])) <= 40


def test_without_runs_it_says_how_little_that_is(lost: Callable, yaml: Path) -> None:
    command = ("plan", yaml, "--suggest", "--device", "cpu", "--backend", "torch")
    guess = lost(*command)
    assert "2.2 to 2.4 times too high" in " ".join(guess.err.split())
    assert "a guess by Step Law" in guess.out
    assert guess.out.splitlines()[-1].startswith("lost train ")
    value = suggested(lost, yaml, "--set", "optimizer.name=spectron", "optimizer.lr=0.03")
    assert (value["lr"], value["rate_from"]) == (0.03, "the configuration")
    assert value["model"]["hidden_size"] == 32  # with neither time nor tokens the size stays
    assert value["tokens_per_parameter_without_embeddings"] == pytest.approx(20, rel=0.05)


def test_what_does_not_fit_is_not_trained_for_its_speed(
    lost: Callable, yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a time, the largest size that fits is measured; the size that was asked for is refused in numbers."""
    asked, measured = dense(32), []
    room = budget(asked).memory.total - 1

    def speed(config: Config, backend: str, device: str) -> float:
        assert budget(config).memory.total <= room
        measured.append(size_of(config))
        return SPEED

    monkeypatch.setattr("lost.bench.trial.tokens_per_second", speed)
    monkeypatch.setattr("lost.backends.torch.capacity", lambda device: room)
    suggested(lost, yaml, "--hours", "1")
    smaller = [size for each in shapes(asked) if budget(each).memory.total <= room and (size := size_of(each))]
    assert measured[0] == max(smaller) < size_of(asked)
    measured.clear()
    done = lost("plan", yaml, "--suggest", "--device", "cpu", "--backend", "torch")
    assert (done.code, measured) == (2, [])
    assert "training needs about" in done.err
    monkeypatch.setattr("lost.backends.torch.capacity", lambda device: 1)
    done = lost("plan", yaml, "--suggest", "--hours", "1", "--device", "cpu", "--backend", "torch")
    assert (done.code, "no size of this model fits the device" in done.err, measured) == (2, True, [])


@pytest.mark.parametrize("asked", ["--tokens", "--hours"])
def test_a_large_vocabulary_makes_no_model_narrower(lost: Callable, tmp_path: Path, asked: str) -> None:
    """Tokens are counted a parameter without embeddings, of which such a model would have nothing but."""
    models = []
    for entries in (19, 5632):
        (tmp_path / "mine.yaml").write_text(dump(dense(32, model={"vocab_size": entries})))
        per_token = budget(dense(32, model={"vocab_size": entries})).flops_per_token
        given = 1e6 if asked == "--tokens" else 1e13 / per_token / SPEED / 3600
        models.append(suggested(lost, tmp_path / "mine.yaml", asked, given)["model"])
    assert models[0]["hidden_size"] <= 1.5 * models[1]["hidden_size"]
    assert models[1]["hidden_size"] > 16


def test_each_set_of_a_mixture_is_repeated_by_itself() -> None:
    class Stream:
        def epochs(self, samples: int) -> list[float]:
            return [samples / 50, samples / 200]

    run = Suggestion(dense(16), budget(dense(16)), 800, SPEED, None, None, None)  # 100 samples
    read = reading(run, Stream(), [0.75, 0.25])
    assert read.epochs == [2, 0.5]
    assert read.fresh_tokens == pytest.approx(600 * worth(2) / 2 + 200)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_speed_is_measured(lost: Callable, yaml: Path, backend: str) -> None:
    done = lost("plan", yaml, "--suggest", "--device", "cpu", "--backend", backend, "--json")
    assert done.code == 0, done.err
    value = json.loads(done.out)
    assert value["tokens_per_second"] not in (0, SPEED)
    assert value["seconds"] == pytest.approx(value["tokens"] / value["tokens_per_second"])


def test_runs_of_another_scale_of_muon_say_nothing(lost: Callable, yaml: Path, tmp_path: Path) -> None:
    """An update is as long as its scale has it, so rates differ too."""
    proxy = dense(16, optimizer={"name": "muon", "scale": "spectral"}, schedule={"steps": 100})
    make_run(tmp_path / "tuned", proxy, {100: 3.0})
    done = lost("plan", yaml, "--suggest", "--from", tmp_path / "tuned", "--set", "optimizer.name=muon")
    assert done.code == 2
    assert "optimizer.scale = match_rms_adamw" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--hours", "1"), "--hours was given without --suggest"),
        (("--from", "{}"), "--from was given without --suggest"),
        (("--suggest", "--world", "8"), "--world with --suggest"),
        (("--suggest", "--hours", "1", "--tokens", "1e6"), "follows from one of them"),
        (("--suggest", "--hours", "-1"), "--hours"),
        (("--suggest", "--tokens", "nan"), "--tokens"),
        (("--suggest", "--from", "{}/nowhere"), "holds no run"),
        (("--suggest", "--from", "{}", "--set", "projection.kind=lost"), "no run of projection.kind = lost"),
        (("--suggest", "--from", "{}", "--set", "optimizer.name=muon"), "with optimizer.name = muon, optimizer.scale"),
        (("--suggest", "--set", "optimizer.base_width=8"), "both set rates by the model's size"),
    ],
)
def test_refused(lost: Callable, yaml: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    make_run(tmp_path / "tuned", dense(16, schedule={"steps": 100}), {100: 3.0})
    done = lost("plan", yaml, "--device", "cpu", *(each.format(tmp_path / "tuned") for each in arguments))
    assert done.code == 2
    assert words in " ".join(done.err.split())
