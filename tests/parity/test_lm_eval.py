"""Tasks of lm-evaluation-harness on our engines, against its own Hugging Face model on the same weights."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate as ask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from lost.backends.torch.model import rotary_tables
from lost.checkpoint import TrainState, write
from lost.config import Config, ModelConfig
from lost.data.dataset import Dataset
from lost.data.loader import TrainingStream
from lost.engine import BACKENDS, Engine, create_engine
from lost.evaluation.lm_eval import Tasks
from lost.evaluation.lm_eval_model import LmEvalModel, as_lm_eval_model
from lost.evaluation.perplexity import evaluate
from lost.interop.to_hf.folder import export
from lost.model.init import initial_values

Ours = Callable[..., LmEvalModel]
Theirs = Callable[..., HFLM]
POSITIONS = 48
FORMS = {
    "own_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("bits_per_byte", "byte_perplexity", "word_perplexity")],
    },
    "own_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm")],
        "fewshot_split": "test",
    },
    "own_answer": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["e", "\n"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def texts(text_folder: Path) -> list[str]:
    """Of one window, of several, of a single token; with bytes that no piece stands for."""
    long = [path.read_text() for path in sorted(text_folder.iterdir())[:3]]
    return [*long, "the rank of", "a", "  \n\ttwo  spaces é😀 "]


@pytest.fixture(scope="module")
def folder(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three tasks, as a user writes them: YAML beside JSON lines."""
    folder = tmp_path_factory.mktemp("tasks")
    words = texts[0].split()
    questions = [
        {
            "question": " ".join(words[start : start + 3 + start % 40]),
            "choices": [f" {each}" for each in words[start : start + 4]],
            "answer": start % 4,
        }
        for start in range(24)
    ]
    rows = {"own_text": [{"text": text} for text in texts], "own_choice": questions, "own_answer": questions[:6]}
    for name, form in FORMS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows[name]))
        place = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **place, **form}))  # JSON is YAML
    return folder


@pytest.fixture(scope="module")
def dense(config: Callable[..., Config], prepared: Dataset) -> Config:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "max_position_embeddings": POSITIONS, "initializer_range": 0.2}
    return config(model={**sizes, "vocab_size": prepared.tokenizer.vocab_size}, projection={"kind": "dense"})


@pytest.fixture(scope="module")
def weights(dense: Config, prepared: Dataset) -> dict[str, np.ndarray]:
    """Of a model that has learned some words: a random one makes bytes that are no characters."""
    engine = create_engine(dense, "torch", "cpu")
    engine.load(initial_values(dense))
    stream = TrainingStream(prepared.split("train"), 32, 0)
    for step in range(60):
        batch = stream.batch(step * 8, 8)
        engine.step([batch], batch.predictions, 1e-2)
    return {name: np.array(value) for name, value in engine.dump()}


@pytest.fixture(scope="module")
def their_tokenizer(prepared: Dataset, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    prepared.tokenizer.save(folder)
    about = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_prefix_space": False, "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "eos_token": "</s>", "unk_token": "<unk>"}))
    return AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def theirs(dense: Config, weights: dict[str, np.ndarray], their_tokenizer: PreTrainedTokenizerBase) -> Theirs:
    """lm_eval's Hugging Face model on the same weights; `double`: all of it in float64."""

    def make(double: bool = False) -> HFLM:
        llama = LlamaForCausalLM(LlamaConfig(**dense.model.model_dump(), bos_token_id=None, eos_token_id=1))
        llama.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        if double:
            in_float64(llama.double(), dense.model)
        return HFLM(pretrained=llama, tokenizer=their_tokenizer, batch_size=3, device="cpu")

    return make


def in_float64(llama: LlamaForCausalLM, model: ModelConfig) -> None:
    """Have norms and rotary positions in float64 too: transformers computes them in float32, whatever comes."""
    for module in llama.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            own = module.weight.shape, module.weight, module.variance_epsilon
            module.forward = lambda x, own=own: F.rms_norm(x, *own)
    tables = rotary_tables(model, model.max_position_embeddings)
    whole = [torch.cat([table, table], dim=-1) for table in tables]
    llama.model.rotary_emb.forward = lambda x, position_ids: tuple(table[position_ids] for table in whole)


def in_double(engine: Any, config: ModelConfig) -> None:
    model = engine.model.double()
    model.model.dtype = torch.float64
    model.model.cos, model.model.sin = rotary_tables(config, config.max_position_embeddings)


@pytest.fixture(scope="module")
def engine_of(dense: Config, weights: dict[str, np.ndarray]) -> Callable[..., Engine]:
    def make(backend: str = "torch", double: bool = False) -> Engine:
        engine: Any = create_engine(dense, backend, "cpu")
        engine.load(weights.items())
        if double:
            in_double(engine, dense.model)
        return engine

    return make


@pytest.fixture(scope="module")
def ours(engine_of: Callable[..., Engine], prepared: Dataset) -> Ours:
    def make(at_once: int = 200, **kind: Any) -> LmEvalModel:
        return LmEvalModel(engine_of(**kind), prepared.tokenizer, POSITIONS, at_once)

    return make


def asked(kind: str, *questions: tuple) -> list[Instance]:
    return [Instance(kind, {}, question, 0) for question in questions]


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [({"double": True}, 1e-12), ({"backend": "torch"}, 5e-7), ({"backend": "mlx"}, 5e-7)],
    ids=["float64", "torch", "mlx"],
)
def test_whole_texts(
    engine_of: Callable[..., Engine],
    ours: Ours,
    prepared: Dataset,
    texts: list[str],
    theirs: Theirs,
    kind: dict,
    tolerance: float,
) -> None:
    """In float64 nothing is left but the definition, and it is theirs; float32 rounds in each framework its own way."""
    expected = theirs(double=True).loglikelihood_rolling(asked("loglikelihood_rolling", *((text,) for text in texts)))
    model = ours(**kind)
    np.testing.assert_allclose(model.texts(texts), expected, rtol=tolerance)
    assert model.texts(["", texts[0]])[0] == 0.0
    assert model.longest == POSITIONS

    ids = np.array([prepared.tokenizer.end_of_text, *prepared.tokenizer.encode(texts[0])])
    own = evaluate(engine_of(**kind), ids, POSITIONS, 2)
    assert len(ids) > 2 * POSITIONS
    assert -own.nll == pytest.approx(expected[0], rel=tolerance)


def test_an_export_says_the_same(
    dense: Config, folder: Path, texts: list[str], prepared: Dataset, tmp_path: Path
) -> None:
    """LOST layers: the harness on our engine, the harness on the exported folder, our evaluator; bits a byte."""
    config = dense.replace("projection", kind="lost", rank=16, density=0.1, align=8)
    source = write(tmp_path / "source", initial_values(config), (), config, TrainState(), prepared.tokenizer)
    export(source, tmp_path / "folder", "hf")
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", trust_remote_code=True).double()
    in_float64(llama, config.model)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder", trust_remote_code=True)
    opened = HFLM(pretrained=llama, tokenizer=tokenizer, device="cpu", max_length=POSITIONS)
    engine: Any = create_engine(config, "torch", "cpu")
    engine.load(source.parameters())
    in_double(engine, config.model)
    ours = Tasks(["own_text"], folder, None).run(LmEvalModel(engine, prepared.tokenizer, POSITIONS, 200), None)
    tasks = TaskManager(include_path=str(folder), include_defaults=False).load(["own_text"])
    bits = ask(opened, tasks, log_samples=False)["results"]["own_text"]["bits_per_byte,none"]
    assert ours["results"]["own_text"]["bits_per_byte"] == pytest.approx(bits, rel=1e-9)
    ids = [np.array([prepared.tokenizer.end_of_text, *prepared.tokenizer.encode(text)]) for text in texts]
    nll = sum(evaluate(engine, each, POSITIONS, 2).nll for each in ids)
    assert nll / math.log(2) / sum(len(text.encode()) for text in texts) == pytest.approx(bits, rel=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_continuations(ours: Ours, theirs: Theirs, texts: list[str], backend: str) -> None:
    """Spaces at the border, no context, a context that must lose its beginning, and what greedy decoding gives."""
    authority = theirs()
    greedy = authority.generate_until(asked("generate_until", ("the rank of", {"until": [], "max_gen_toks": 4})))[0]
    questions = [
        ("the rank of", greedy),
        ("the rank", " of the layer"),
        ("the rank ", "of"),
        ("the rank\n", "of é😀"),
        ("", "the layer"),
        (texts[0], " the layer"),
        (texts[1], texts[2][:20]),
    ]
    expected = authority.loglikelihood(asked("loglikelihood", *questions))
    model = ours(backend=backend)
    found = as_lm_eval_model(model).loglikelihood(asked("loglikelihood", *questions))
    np.testing.assert_allclose([each[0] for each in found], [each[0] for each in expected], rtol=1e-5)
    assert [each[1] for each in found] == [each[1] for each in expected]
    assert [each[1] for each in found[:2]] == [True, False]
    assert model.num_truncated == 2
    alone = as_lm_eval_model(ours(1, backend=backend)).loglikelihood(asked("loglikelihood", *questions))
    np.testing.assert_allclose([each[0] for each in alone], [each[0] for each in found], rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_generations(ours: Ours, theirs: Theirs, texts: list[str], backend: str) -> None:
    prompts = ["the rank of", texts[0], "a", "the channel "]
    settings = [{"until": ["e"], "max_gen_toks": 12}, {"until": "\n", "max_new_tokens": 9}, {"max_gen_toks": 40}]
    questions = [(prompt, each) for prompt in prompts for each in settings]
    expected = theirs().generate_until(asked("generate_until", *questions))
    found = as_lm_eval_model(ours(backend=backend)).generate_until(asked("generate_until", *questions))
    assert found == expected
    assert len(set(found)) > len(prompts)


def test_sampling(ours: Ours) -> None:
    """Repeats of a question differ, runs don't; a nucleus of nothing is greedy."""
    wild = ("the rank of", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 20})
    narrow = ("the rank of", {"do_sample": True, "top_k": 1, "max_gen_toks": 20})
    greedy = ("the rank of", {"temperature": 0.0, "max_gen_toks": 20})
    first, second = (ours().generations([wild, wild, narrow, greedy]) for _ in range(2))
    assert first == second
    assert len({*first[:3]}) == 3
    assert first[2] == first[3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_tasks(ours: Ours, folder: Path, theirs: Theirs, backend: str) -> None:
    """The three kinds of task from end to end: the same figures, standard errors included."""
    tasks = TaskManager(include_path=str(folder), include_defaults=False).load(list(FORMS))
    expected = ask(theirs(), tasks, bootstrap_iters=1000, log_samples=False)["results"]
    answer = Tasks(list(FORMS), folder, None).run(ours(backend=backend), None)
    assert answer["results"].keys() == expected.keys() == FORMS.keys()
    for name, metrics in answer["results"].items():
        for metric, value in metrics.items():
            wanted = expected[name][f"{metric},none"]
            assert value == pytest.approx(wanted, rel=1e-5) if wanted != "N/A" else value is None, (name, metric)
    assert answer["results"]["own_text"].keys() >= {"bits_per_byte", "byte_perplexity", "word_perplexity"}
    assert 0 < answer["results"]["own_choice"]["acc"] < 1
    assert answer["results"]["own_choice"]["acc_stderr"] > 0
    assert answer["documents"] == {"own_text": 6, "own_choice": 24, "own_answer": 6}


def test_examples_and_limit(ours: Ours, folder: Path, theirs: Theirs) -> None:
    answer = Tasks(["own_choice"], folder, 2).run(ours(), 5)
    assert (answer["n_shot"], answer["documents"]) == ({"own_choice": 2}, {"own_choice": 5})
    tasks = TaskManager(include_path=str(folder), include_defaults=False).load(["own_choice"])
    task = tasks["tasks"]["own_choice"]
    task.set_config("num_fewshot", 2)
    task.set_fewshot_seed(1234)
    expected = ask(theirs(), tasks, limit=5, log_samples=False)["results"]["own_choice"]
    assert answer["results"]["own_choice"]["acc"] == expected["acc,none"]
    assert math.isclose(answer["results"]["own_choice"]["acc_stderr"], expected["acc_stderr,none"], rel_tol=1e-9)
