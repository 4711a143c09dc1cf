"""A slow LLaMA in numpy: the authority that both backends are tested against. Shapes: b batch, s sequence, h hidden."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from lost.config import Config, TeacherConfig
from lost.model.parameters import EMBEDDING, FINAL_NORM, HEAD, gate_is_activated, layer_projections, parameter_table
from lost.model.rope import frequencies
from lost.projections import Projection
from lost.projections.activations import silu

Array = np.ndarray


def logits(config: Config, parameters: Mapping[str, Array], tokens: Array) -> Array:
    """Return (b, s, vocab) for tokens (b, s), in the parameters' own precision."""
    return Model(config).scores(parameters, parameters[EMBEDDING][tokens])


def loss(config: Config, parameters: Mapping[str, Array], tokens: Array, mask: Array | None = None) -> float:
    """Return the mean negative log-likelihood (natural log) of tokens[:, 1:] given what precedes.

    Args:
        config: the model.
        parameters: by name.
        tokens: (b, s + 1).
        mask: (b, s) bool, the predictions to average over; None: all.
    """
    return _mean_loss(logits(config, parameters, tokens[:, :-1]), tokens[:, 1:], mask)


def _mean_loss(
    scores: Array, targets: Array, mask: Array | None, z_loss: float = 0.0, teacher: "Teacher | None" = None
) -> float:
    log_z = _log_sum(scores)
    target_scores = np.take_along_axis(scores, targets[..., None].astype(np.int64), axis=-1)[..., 0]
    losses = log_z - target_scores
    if teacher is not None:
        share, heat = teacher.settings.weight, teacher.settings.temperature
        losses = (1 - share) * losses + share * heat**2 * teacher.divergence(scores)
    return float((losses + z_loss * log_z**2).mean(where=True if mask is None else mask))


def _log_sum(scores: Array) -> Array:
    highest = scores.max(axis=-1, keepdims=True)
    return np.log(np.exp(scores - highest).sum(axis=-1)) + highest[..., 0]


@dataclass(frozen=True)
class Teacher:
    """What a teacher predicts: log-probabilities at its temperature (b, s, k), of all entries or of those in `ids`."""

    settings: TeacherConfig
    log_probabilities: Array
    ids: Array | None = None

    def divergence(self, scores: Array) -> Array:
        """Return KL(teacher || student) of logits (b, s, vocab), (b, s); entries that aren't kept count as one."""
        student = scores / self.settings.temperature
        student = student - _log_sum(student)[..., None]
        meant = self.log_probabilities
        if self.ids is not None:
            others = np.exp(student)
            np.put_along_axis(others, self.ids, 0.0, axis=-1)
            rest = np.maximum(1 - np.exp(meant).sum(axis=-1, keepdims=True), 1e-300)
            meant = np.concatenate([meant, np.log(rest)], axis=-1)
            kept = np.take_along_axis(student, self.ids, axis=-1)
            student = np.concatenate([kept, np.log(others.sum(axis=-1, keepdims=True))], axis=-1)
        return (np.exp(meant) * (meant - student)).sum(axis=-1)


def gradients(
    config: Config,
    parameters: Mapping[str, Array],
    tokens: Array,
    mask: Array | None = None,
    teacher: Teacher | None = None,
) -> dict[str, Array]:
    """Return the loss's gradient, `train.z_loss` and a teacher's part included, for each trained parameter.

    By central differences, entry by entry: for tiny models.

    Args:
        config: the model.
        parameters: float64, so that the error stays near 1e-9.
        tokens: (b, s + 1).
        mask: (b, s) bool, the predictions that count; None: all.
        teacher: what is learned from beside the tokens; None: nothing.
    """
    step, result, moved = 1e-5, {}, dict(parameters)
    model = Model(config)
    inputs = [parameters[EMBEDDING][tokens[:, :-1]]]  # of every half: what comes before a parameter stays as it is
    for half in model.halves:
        inputs.append(half(parameters, inputs[-1]))
    for name, row in parameter_table(config).items():
        if not row.trained:
            continue
        result[name], moved[name] = np.empty(row.shape), parameters[name].copy()
        first = 0 if name == EMBEDDING else model.first_half(name)
        for index in np.ndindex(row.shape):
            ends = []
            for sign in (1, -1):
                moved[name][index] = parameters[name][index] + sign * step
                x = moved[EMBEDDING][tokens[:, :-1]] if first == 0 else inputs[first]
                scores = model.scores(moved, x, first)
                ends.append(_mean_loss(scores, tokens[:, 1:], mask, config.train.z_loss, teacher))
            moved[name][index] = parameters[name][index]
            result[name][index] = (ends[0] - ends[1]) / (2 * step)
    return result


Map = Callable[[Mapping[str, Array], Array], Array]
"""Map a block: maps parameters and the residual stream (b, s, h) before it to the stream after it."""


class Model:
    """The function of a configuration's model, with all that doesn't depend on parameters looked up once.

    Attributes:
        halves: attention and feed-forward of every block, in their order; each maps the residual stream (b, s, h)
            before it to that after it.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._speeds = frequencies(config.model)
        self.halves: list[Map] = []
        for layer in range(config.model.num_hidden_layers):
            q, k, v, o, gate, up, down = map(_applied, layer_projections(config, layer))
            activated = gate_is_activated(config, layer_projections(config, layer)[4])
            self.halves += [self._attention(layer, q, k, v, o), self._feed_forward(layer, gate, up, down, activated)]

    def first_half(self, name: str) -> int:
        """Return the number of the half in which a parameter is first read; after the last: it is none's."""
        if not name.startswith("model.layers."):
            return len(self.halves)
        layer, part = name.split(".")[2:4]
        return 2 * int(layer) + (part in ("mlp", "post_attention_layernorm"))

    def scores(self, parameters: Mapping[str, Array], x: Array, first: int = 0) -> Array:
        """Return the logits of what goes into half `first`."""
        for half in self.halves[first:]:
            x = half(parameters, x)
        x = _norm(x, parameters[FINAL_NORM], self._config.model.rms_norm_eps)
        return x @ parameters.get(HEAD, parameters[EMBEDDING]).T

    def _attention(self, layer: int, q: Map, k: Map, v: Map, o: Map) -> Map:
        prefix, model = f"model.layers.{layer}", self._config.model

        def half(parameters: Mapping[str, Array], x: Array) -> Array:
            normed = _norm(x, parameters[f"{prefix}.input_layernorm.weight"], model.rms_norm_eps)
            heads = [each(parameters, normed) for each in (q, k, v)]
            norms = [parameters.get(f"{prefix}.self_attn.{part}_norm.weight") for part in ("q", "k")]
            return x + o(parameters, self._attend(*heads, *norms))

        return half

    def _feed_forward(self, layer: int, gate: Map, up: Map, down: Map, activated: bool) -> Map:
        norm, eps = f"model.layers.{layer}.post_attention_layernorm.weight", self._config.model.rms_norm_eps

        def half(parameters: Mapping[str, Array], x: Array) -> Array:
            normed = _norm(x, parameters[norm], eps)
            opened = gate(parameters, normed)
            return x + down(parameters, (silu(opened) if activated else opened) * up(parameters, normed))

        return half

    def _attend(self, q: Array, k: Array, v: Array, q_norm: Array | None, k_norm: Array | None) -> Array:
        """Causal attention of (b, s, heads * head_width), each key head serving a group of query heads."""
        model = self._config.model
        batch, length = q.shape[:2]
        groups = model.num_attention_heads // model.key_value_heads
        later, cos, sin = self._positions(length)

        def split(x: Array, heads: int, norm: Array | None = None) -> Array:
            x = x.reshape(batch, length, heads, model.head_width).swapaxes(1, 2)
            return x if norm is None else _norm(x, norm, model.rms_norm_eps)

        q = _rotate(split(q, model.num_attention_heads, q_norm), cos, sin)
        k = np.repeat(_rotate(split(k, model.key_value_heads, k_norm), cos, sin), groups, axis=1)
        v = np.repeat(split(v, model.key_value_heads), groups, axis=1)
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(model.head_width)
        scores[..., later] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return (weights @ v).swapaxes(1, 2).reshape(batch, length, -1)

    @cache  # noqa: B019 - as long as the model
    def _positions(self, length: int) -> tuple[Array, Array, Array]:
        """Return which token is later than which, (s, s), and the cosines and sines of rotary angles."""
        angles = np.arange(length)[:, None] * self._speeds
        return ~np.tril(np.ones((length, length), bool)), np.cos(angles), np.sin(angles)


def _applied(projection: Projection) -> Map:
    """Return what maps parameters and inputs to a projection's outputs."""
    names = {suffix: f"{projection.name}.{suffix}" for suffix in projection.tensors()}
    return lambda parameters, x: projection.forward(x, {suffix: parameters[name] for suffix, name in names.items()})


def _norm(x: Array, weight: Array, eps: float) -> Array:
    """RMSNorm (Zhang and Sennrich, arXiv 1910.07467)."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary positions (Su et al., arXiv 2104.09864) in Hugging Face's convention: the two halves are the pairs."""
    width = x.shape[-1]
    first, second = x[..., : width // 2], x[..., width // 2 :]
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
