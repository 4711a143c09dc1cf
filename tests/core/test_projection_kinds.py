"""Kinds of projections that a test registers: what they say of themselves goes, and nothing else is edited."""

import json
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import tiny_config
from torch import Tensor as TorchTensor
from torch.nn import functional

from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.layers import Layer
from lost.bench.options import as_kind
from lost.checkpoint import TrainState
from lost.checkpoint.writer import write
from lost.config import Config, ProjectionSettings
from lost.data.dataset import Dataset
from lost.engine import selftest
from lost.errors import ConfigError, UserError
from lost.interop.to_hf.card import card
from lost.interop.to_hf.dense import merged_config
from lost.method.spectrum import Spectrum
from lost.model.init import initial_values
from lost.model.inspect import inspect_layers
from lost.model.load import dump
from lost.model.parameters import projections
from lost.planning.budget import budget
from lost.planning.roofline import Card, step_on_a_card
from lost.projections import KINDS, Projection, Tensor, projection
from lost.projections.base import OF_THE_LAYERS
from lost.projections.lost import Lost
from lost.projections.lowrank import Bottleneck
from lost.reshape.as_dense import averaged_as_dense, decomposed_target
from lost.reshape.merge import Part


class Quiet(Projection):
    """y = scale * (W x), by outputs, and nothing said beside it."""

    layers: ClassVar[Mapping[str, str]] = {"torch": f"{__name__}:TorchQuiet"}

    def _tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.out_features, self.in_features)), "scale": Tensor((self.out_features,))}

    def _initial(self, seed: int, std: float) -> dict[str, np.ndarray]:
        return {"weight": self.dense_weight(seed, std), "scale": np.ones(self.out_features)}

    def _forward(self, x: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
        return x @ self.merged(values).T

    def merged(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        return values["scale"][:, None] * values["weight"]

    def saved_per_token(self) -> int:
        return self.out_features


class TorchQuiet(Layer):
    def narrow(self, x: TorchTensor) -> tuple[TorchTensor, ...]:
        return (functional.linear(x, self.weight.to(x.dtype)),)

    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        return parts[0] * self.scale.to(parts[0].dtype)


class Told(Quiet):
    """The same layers; it says all that can be asked."""

    recasts = frozenset({"torch"})
    computes_as = "quiet"
    decomposes_as = "lowrank"
    channels = 3

    @classmethod
    def compared_settings(cls, settings: ProjectionSettings) -> dict[str, Any]:
        return {"activation": "gelu"}

    @classmethod
    def card_rows(cls, settings: ProjectionSettings) -> dict[str, Any]:
        return {"what is scaled": "outputs"}

    def spectrum(self, values: Mapping[str, np.ndarray]) -> Spectrum:
        return Spectrum(np.array([4.0, 1.0]), rank=1, sparse_share=0.25)

    def saved_beside(self, backend: str, device: str) -> int:
        return {"torch cpu": 7, "mlx gpu": 9}.get(f"{backend} {device}", 0)

    def elementwise_per_token(self) -> int:
        return 4 * self.out_features


class Apart(Told):
    """With layers of its own, which are wrong."""

    layers: ClassVar[Mapping[str, str]] = {"torch": f"{__name__}:TorchApart"}


class TorchApart(TorchQuiet):
    def _widen(self, *parts: TorchTensor) -> TorchTensor:
        return super()._widen(*parts) * 1.01


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "quiet", Quiet)
    monkeypatch.setitem(KINDS, "told", Told)
    monkeypatch.setitem(KINDS, "apart", Apart)


def made(kind: str, **train: object) -> Config:
    return tiny_config(projection={"kind": kind}, train=train)


@pytest.mark.parametrize("kind", ["quiet", "told"])
@pytest.mark.parametrize(("backend", "device"), [("torch", "cuda"), ("torch", "cpu"), ("mlx", "gpu"), ("mlx", "cpu")])
def test_it_is_planned(lost: Callable, tmp_path: Path, kind: str, backend: str, device: str) -> None:
    """With a roofline where what is between its products is known."""
    (tmp_path / "mine.yaml").write_text(dump(made(kind)))
    options = ("--backend", backend, "--device", device, "--memory-gib", 8, "--json")
    done = lost("plan", tmp_path / "mine.yaml", *options)
    assert done.code == 0, done.err
    figures = json.loads(done.out).get("roofline", {})
    assert ("tokens_per_second" in figures) == (kind == "told" and device == "cuda")


def test_what_it_says_of_its_layers_is_counted() -> None:
    quiet, told, dense = (made(kind, dtype="bfloat16") for kind in ("quiet", "told", "dense"))
    tokens, parts = quiet.train.micro_batch * quiet.data.seq_len, projections(quiet)
    for backend, device, beside in (("torch", "cpu", 7), ("mlx", "gpu", 9), ("mlx", "cpu", 0)):
        own, other = (budget(each, backend, device).memory.activations for each in (told, quiet))
        casts = 2 * sum(each.parameters() for each in parts) if backend == "torch" else 0
        assert own - other == 2 * tokens * beside * len(parts) - casts
    card = Card(1e30, 1e12, 1.0, 1.0)
    steps = [step_on_a_card(each, card, each.train.micro_batch, each.train.batch_size) for each in (told, dense)]
    assert steps[0]
    assert steps[1]
    rounds = told.train.batch_size // told.train.micro_batch
    between = rounds * 2 * tokens * sum(4 * each.out_features for each in parts)
    assert (steps[0].elementwise - steps[1].elementwise) * 1e12 == pytest.approx(between)


def test_it_is_inspected() -> None:
    for kind in ("quiet", "told"):
        config = made(kind)
        values = dict(initial_values(config))
        for part, layer in zip(projections(config), inspect_layers(config, values), strict=True):
            exact = {suffix: values[f"{part.name}.{suffix}"].astype(np.float64) for suffix in part.tensors()}
            expected = [2.0, 1.0] if kind == "told" else np.linalg.svd(part.merged(exact), compute_uv=False)
            np.testing.assert_allclose(layer.singular_values, expected, atol=1e-6)
            told = (1, 3, 5**0.5, 0.8, 0.25)
            seen = (layer.rank, layer.channels, layer.norm, layer.spectrum, layer.sparse_share)
            assert seen == (told if kind == "told" else (None, None, layer.norm, None, None))


def test_it_is_measured_beside_others(lost: Callable, tmp_path: Path) -> None:
    settings = made("lost").projection
    assert as_kind(settings, "quiet") == {"kind": "quiet"}
    assert as_kind(settings, "told") == {"kind": "told", "activation": "gelu"}
    (tmp_path / "mine.yaml").write_text(dump(made("lost")))
    shape = ("--layer-shape", "32x48", "--layer-rank", 8, "--layer-tokens", 16)
    options = ("--layer", "--kinds", "quiet,told,dense", "--rounds", 1, "--backend", "torch", "--device", "cpu")
    done = lost("bench", tmp_path / "mine.yaml", *shape, *options, "--json")
    assert done.code == 0, done.err
    assert [*json.loads(done.out)["layer"]["results"]] == ["quiet", "told", "dense"]


def test_a_card_says_what_it_says(prepared: Dataset, tmp_path: Path) -> None:
    for kind in ("quiet", "told"):
        config = tiny_config(projection={"kind": kind}, model={"vocab_size": 320}, data={"path": str(prepared.path)})
        source = write(tmp_path / kind, initial_values(config), (), config, TrainState(step=7), prepared.tokenizer)
        text = card(source, merged_config(config), "float32")
        assert f"| projections | {kind} |\n" in text
        assert ("| what is scaled | outputs |" in text) == (kind == "told")
        assert "| rank |" not in text  # which it may not read


def test_it_is_tested_itself_unless_a_test_is_of_the_same_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that derives from another and has layers of its own is tested, though it inherits what it computes as."""
    assert {"pissa", "lora_sb", "quiet"} <= {*selftest.kinds_tested()}
    assert not {"lora", "eva", "lora_xs", "told"} & {*selftest.kinds_tested()}
    monkeypatch.setattr(selftest, "KINDS", {"quiet": Quiet, "told": Told, "apart": Apart})
    checks = selftest.self_test(lambda config: TorchEngine(config, "cpu"))
    checks = [*takewhile(lambda check: not check.kind.startswith("head"), checks)]
    assert {check.kind for check in checks} == {"quiet", "apart"}
    assert {check.kind for check in checks if not check.passed} == {"apart"}


def test_an_average_is_of_the_kind_that_it_names(prepared: Dataset, tmp_path: Path) -> None:
    for kind in ("quiet", "told"):
        config = tiny_config(projection={"kind": kind}, model={"vocab_size": 320})
        source = write(tmp_path / kind, initial_values(config), (), config, TrainState(), prepared.tokenizer)
        if kind == "told":
            target = decomposed_target([Part(source, 1.0)], 4)
            assert {(each.settings.kind, each.settings.rank) for each in projections(target)} == {("lowrank", 4)}
            continue
        with pytest.raises(UserError, match="layers of kind quiet can't be decomposed"):
            decomposed_target([Part(source, 1.0)], 4)


def test_a_kind_that_approximates_no_matrix_is_refused(
    prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another names it all the same."""
    monkeypatch.setitem(KINDS, "misled", type("Misled", (Quiet,), {"decomposes_as": "quiet"}))
    config = tiny_config(projection={"kind": "misled"}, model={"vocab_size": 320})
    part = Part(write(tmp_path / "a", initial_values(config), (), config, TrainState(), prepared.tokenizer), 1.0)
    with pytest.raises(ConfigError, match="is to be of kind quiet, which approximates no matrix"):
        dict(averaged_as_dense([part], decomposed_target([part], 4)))


@pytest.mark.parametrize("kind", ["lost", "lowrank", "sltrain", "dense", "told"])
def test_layers_of_its_own_inherit_no_claim(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes other things than layers keeps them; whoever changes layers states them anew."""
    known = KINDS[kind]
    without = Bottleneck if issubclass(known, Bottleneck) else Projection  # what any layers with a bottleneck do
    renamed = type("Renamed", (known,), {})
    own = type("Own", (known,), {"layers": {"torch": "elsewhere:Layer"}})
    again = type("Again", (own,), {"recasts": frozenset({"mlx"})})
    for name in OF_THE_LAYERS:
        assert getattr(renamed, name) == getattr(known, name)
        assert getattr(own, name) == getattr(without, name)
        assert getattr(again, name) == getattr(without, name) or name == "recasts"
    assert again.recasts == {"mlx"}  # type: ignore[attr-defined]


def test_a_layer_with_a_part_that_another_kind_does_not_know() -> None:
    """LOST's spectrum would pass over the norm; its matrix is asked for, and with an activation there is none."""

    class Normed(Lost):
        layers: ClassVar[Mapping[str, str]] = {"torch": "elsewhere:Layer"}

        def merged(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
            return 2 * super().merged(values)

    for activation in ("none", "silu"):
        settings = ProjectionSettings(kind="lost", rank=4, align=1, activation=activation)
        part, known = Normed("a", 16, 12, settings), projection("a", 16, 12, settings)
        values = known.initial(0, 0.02)
        spectrum, simple = part.spectrum(values), known.spectrum(values)
        assert simple
        if spectrum:
            np.testing.assert_allclose(spectrum.norm, 2 * simple.norm)
            assert spectrum.rank is None
        assert (spectrum is None) == (activation == "silu")
