"""Learning from a teacher: both backends against the numpy reference, from all that it predicts and from a part."""

from collections.abc import Callable

import numpy as np
import pytest

from lost.config import Config
from lost.data.batch import Batch, SoftTargets
from lost.engine import BACKENDS, Engine, create_engine
from lost.model import reference
from lost.model.init import initial_values

Parameters = dict[str, np.ndarray]
MASK = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1]], bool)
SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def student(config: Callable[..., Config]) -> Config:
    """Bottlenecks that look back, in LOST layers, and a z-loss; the teacher's part is less than the text's."""
    return config(
        model={**SIZES, "initializer_range": 0.3, "use_qk_norm": True},
        projection={"rank": 2, "short_conv_width": 2},
        data={"seq_len": 6},
        train={"grad_clip": 0.0, "z_loss": 0.1},
        teacher={"weight": 0.3, "temperature": 2.0},
    )


@pytest.fixture
def teacher(config: Callable[..., Config]) -> Config:
    """A wider model, dense and tied."""
    model = {**SIZES, "hidden_size": 12, "initializer_range": 0.4, "tie_word_embeddings": True}
    return config(model=model, projection={"kind": "dense"}, data={"seq_len": 6}, train={"seed": 1})


def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 19, (4, 7)).astype(np.int32)


def doubled(config: Config) -> Parameters:
    values = dict(initial_values(config))
    return {name: value.astype(np.float64) if value.dtype.kind == "f" else value for name, value in values.items()}


def predicted(teacher: Config, temperature: float) -> np.ndarray:
    """Log-probabilities of the teacher, (b, s, vocab)."""
    scores = reference.logits(teacher, doubled(teacher), tokens()[:, :-1]) / temperature
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def started(config: Config, backend: str, teacher: Config | None = None) -> Engine:
    engine = create_engine(config, backend, "cpu")
    engine.load(initial_values(config))
    if teacher:
        engine.teach(teacher, initial_values(teacher))
    return engine


def first_moments(engine: Engine) -> Parameters:
    found = {name.removesuffix(".exp_avg"): value for name, value in engine.optimizer_state() if "sq" not in name}
    return {name: np.array(value, np.float64) / 0.1 for name, value in found.items()}


def assert_gradients(engine: Engine, config: Config, taught: reference.Teacher, mask: np.ndarray | None) -> None:
    for name, gradient in reference.gradients(config, doubled(config), tokens(), mask, taught).items():
        error = np.linalg.norm(first_moments(engine)[name] - gradient)
        assert error <= 1e-5 * np.linalg.norm(gradient) + 1e-8, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", [None, MASK])
def test_a_teachers_gradients_are_the_references(
    student: Config, teacher: Config, mask: np.ndarray | None, backend: str
) -> None:
    """In micro-batches of one sequence, with and without tokens that aren't learned."""
    meant = predicted(teacher, 2.0)
    taught = reference.Teacher(student.teacher, meant)
    engine = started(student, backend, teacher)
    parts = [Batch(tokens()[row : row + 1], None if mask is None else mask[row : row + 1]) for row in range(4)]
    report = engine.step(parts, sum(each.predictions for each in parts), 1e-3)
    own = reference.logits(student, doubled(student), tokens()[:, :-1]) / 2
    own -= np.log(np.exp(own).sum(-1, keepdims=True))
    by_hand = (np.exp(meant) * (meant - own)).sum(-1)[... if mask is None else mask].mean()
    assert report.divergence is not None
    assert report.divergence() == pytest.approx(by_hand, rel=1e-5)
    assert report.wait()[0] == pytest.approx(reference.loss(student, doubled(student), tokens(), mask), rel=1e-6)
    assert_gradients(engine, student, taught, mask)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_gradients_from_the_likeliest_are_the_references(
    student: Config, teacher: Config, weight: float, backend: str
) -> None:
    student = student.replace("teacher", weight=weight)
    meant = predicted(teacher, 2.0)
    ids = np.argsort(-meant, axis=-1)[..., :5]
    kept = np.take_along_axis(meant, ids, axis=-1)
    engine = started(student, backend)
    soft = SoftTargets(ids.astype(np.int32), kept.astype(np.float32))
    report = engine.step([Batch(tokens(), MASK, soft)], int(MASK.sum()), 1e-3)
    taught = reference.Teacher(student.teacher, kept, ids)
    own = reference.logits(student, doubled(student), tokens()[:, :-1])
    assert report.divergence is not None
    assert report.divergence() == pytest.approx(taught.divergence(own)[MASK].mean(), rel=1e-5)
    assert_gradients(engine, student, taught, MASK)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_entries_as_the_likeliest_are_the_whole_teacher(student: Config, teacher: Config, backend: str) -> None:
    meant = predicted(teacher, 2.0).astype(np.float32)
    ids = np.broadcast_to(np.arange(meant.shape[-1], dtype=np.int32), meant.shape).copy()
    parts = {False: Batch(tokens()), True: Batch(tokens(), None, SoftTargets(ids, meant))}
    found = []
    for kept, part in parts.items():
        report = started(student, backend, None if kept else teacher).step([part], 24, 1e-3)
        assert report.divergence is not None
        found.append([*report.wait(), report.divergence()])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_learns_nothing_from_its_own_twin(student: Config, backend: str) -> None:
    """Where the weight is all the teacher's, and the teacher predicts what the student does."""
    alone = student.replace("teacher", weight=1.0).replace("train", z_loss=0.0)
    engine = started(alone, backend, student)
    report = engine.step([Batch(tokens())], 24, 1e-3)
    assert report.divergence is not None
    assert report.divergence() == pytest.approx(0, abs=1e-6)
    assert report.wait()[1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_teacher_may_be_a_model_with_adapters(student: Config, teacher: Config, backend: str) -> None:
    """Most of its weights aren't trained, and are weights all the same."""
    adapted = teacher.replace("projection", kind="lora", rank=2, alpha=2.0).replace("model", tie_word_embeddings=False)
    engine = started(student, backend, adapted)
    report = engine.step([Batch(tokens())], 24, 1e-3)
    taught, own = reference.Teacher(student.teacher, predicted(adapted, 2.0)), doubled(student)
    assert report.divergence is not None
    expected = taught.divergence(reference.logits(student, own, tokens()[:, :-1])).mean()
    assert report.divergence() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_is_without_the_teacher(student: Config, teacher: Config, backend: str) -> None:
    nll, count = started(student, backend, teacher).evaluate([Batch(tokens())])
    assert nll / count == pytest.approx(reference.loss(student, doubled(student), tokens()), rel=1e-6)
