"""What earlier versions wrote is verified, resumed, evaluated and exported, with the numbers they had: see README.md.

Only the command line is used, as whoever has such files on disk would.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

Lost = Callable[..., Any]
FOLDERS = sorted(Path(__file__).parent.glob("written-*"))
EXPECTED = {folder.name: json.loads((folder / "expected.json").read_text()) for folder in FOLDERS}
EXPORTED = "run"  # the run that `export` is of
MOVED = "/srv/lost-fixture"  # where all of it stood
CLOSE = {"torch": 1e-6, "mlx": 1e-4}  # losses: what another processor, or another library, may change

every_folder = pytest.mark.parametrize("name", EXPECTED)
every_run = pytest.mark.parametrize(
    ("name", "run"), [(name, run) for name, expected in EXPECTED.items() for run in expected["runs"]]
)
either_backend = pytest.mark.parametrize("backend", CLOSE)


@pytest.fixture
def written(name: str, tmp_path: Path) -> Path:
    """A copy of what was written, to be changed at will."""
    return shutil.copytree(Path(__file__).parent / name, tmp_path / "written")


def answered(lost: Lost, *arguments: object) -> dict[str, Any]:
    answer = lost(*arguments, "--json")
    assert answer.code == 0, answer.out + answer.err
    return json.loads(answer.out)


def losses(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


@every_run
def test_whole(lost: Lost, written: Path, name: str, run: str) -> None:
    """Every file is what was written, each run has its data, and a lost data folder is no fault."""
    data = written / EXPECTED[name]["runs"][run]["data"]
    held = sorted((written / run / "checkpoints").iterdir())
    for path in (data, *held):
        found = answered(lost, "verify", path)
        assert (found["checked"], found["faults"], found["weights_only"]) == ([str(path)], [], [])
    found = answered(lost, "verify", written / run)
    assert (found["faults"], len(found["remarks"])) == ([], 1)
    assert "is not on this machine" in found["remarks"][0]
    config = written / run / "config.yaml"
    config.write_text(config.read_text().replace(MOVED, str(written)))
    found = answered(lost, "verify", written / run)
    assert (found["faults"], found["remarks"]) == ([], [])
    assert {*map(str, held)} <= {*found["checked"]}


@every_run
def test_prepared_again(lost: Lost, written: Path, tmp_path: Path, name: str, run: str) -> None:
    """The same text, with the tokenizer that was kept, gives the same shards."""
    data = written / EXPECTED[name]["runs"][run]["data"]
    out = tmp_path / "again"
    answered(lost, "prepare", written / "text.jsonl", "--tokenizer", data, "--valid-fraction", 0.1, "--out", out)
    before, after = (json.loads((folder / "dataset.json").read_text()) for folder in (data, out))
    assert all(after[key] == before[key] for key in ("tokenizer", "dtype", "splits"))
    assert {path.name for path in out.iterdir()} == {path.name for path in data.iterdir()}


def inspected(expected: dict) -> dict:
    """Return what `lost inspect` said then, with what an origin has had since."""
    origin = expected["inspect"]["origin"]
    since = {"moments": False, "before": None, "data": "", "data_path": "", "updates": 0,
             "parts": [], "share": 1.0, "omitted": 0}  # fmt: skip
    return {**expected["inspect"], "origin": origin and {**origin, **since}}


@every_run
def test_inspected(lost: Lost, written: Path, name: str, run: str) -> None:
    expected = EXPECTED[name]["runs"][run]
    found = answered(lost, "inspect", written / run)
    assert {key: found[key] for key in expected["inspect"]} == inspected(expected)
    assert [each["name"] for each in found["layers"]] == list(expected["layers"])
    for each, (*kind, norm, share) in zip(found["layers"], expected["layers"].values(), strict=True):
        assert [each["kind"], *each["shape"], each["rank"], each["channels"]] == kind
        assert (each["norm"], each["sparse_share"]) == (pytest.approx(norm), pytest.approx(share))


@every_run
@either_backend
def test_evaluated_and_asked(lost: Lost, written: Path, name: str, run: str, backend: str) -> None:
    expected, prompt = EXPECTED[name]["runs"][run], EXPECTED[name]["prompt"]
    use = (written / run, "--backend", backend, "--device", "cpu")
    found = answered(lost, "eval", *use, "--data", written / expected["data"])
    known = {key: found[key] for key in expected["eval"]}
    assert known == pytest.approx(expected["eval"], rel={"torch": 1e-5, "mlx": 1e-4}[backend])
    assert (found["tokens"], found["bytes"]) == (expected["eval"]["tokens"], expected["eval"]["bytes"])
    count = len(expected["token_ids"])
    found = answered(lost, "generate", *use, "--prompt", prompt, "--max-tokens", count, "--temperature", 0)
    assert found["token_ids"] == expected["token_ids"]


@every_run
@either_backend
def test_resumed(lost: Lost, written: Path, name: str, run: str, backend: str) -> None:
    """A run goes on where it was stopped; what it had reported stays as it is."""
    expected, folder = EXPECTED[name]["runs"][run], written / run
    before, step = losses(folder), expected["inspect"]["step"]
    answer = answered(lost, "train", folder, "--data", written / expected["data"], "--backend", backend,
                      "--device", "cpu", "--set", f"train.stop_after={expected['last_step']}")  # fmt: skip
    after = losses(folder)
    assert (after[:step], len(after), answer["step"]) == (before, expected["last_step"], expected["last_step"])
    for found, row in zip(after[step:], expected["resumed"], strict=True):
        assert all(found[key] == row[key] for key in ("step", "tokens", "samples"))
        assert found["lr"] == pytest.approx(row["lr"], rel=1e-12)
        assert found["loss"] == pytest.approx(row["loss"], rel=CLOSE[backend])
        assert found["grad_norm"] == pytest.approx(row["grad_norm"], rel=10 * CLOSE[backend])
    assert answer["validation_loss"] == pytest.approx(expected["validation_loss"][-1], rel=CLOSE[backend])
    found = answered(lost, "verify", folder)
    assert (found["faults"], found["remarks"]) == ([], [])
    assert answered(lost, "inspect", folder)["origin"] == inspected(expected)["origin"]


@every_folder
def test_exported_again(lost: Lost, written: Path, tmp_path: Path, name: str) -> None:
    """The same folder as then, but for what later versions add, and what the code in it may have learned since."""
    from tokenizers import Tokenizer

    before, after = written / "export", tmp_path / "again"
    found = answered(lost, "convert", written / EXPORTED, after, "--to", "hf")
    assert [each["reader"].split()[0] for each in found["checks"]] == ["transformers", "mlx-lm"]
    assert {path.name for path in after.iterdir()} == {path.name for path in before.iterdir()}
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        old, new = (json.loads((folder / file).read_text()) for folder in (before, after))
        for changing in ("lost_version", "lost_seq_len"):  # the second is of later versions
            old.pop(changing, None), new.pop(changing, None)
        assert old == new, file
    old, new = (
        {key: (each.shape, each.dtype, each.tobytes()) for key, each in load_file(folder / "model.safetensors").items()}
        for folder in (before, after)
    )
    assert new == old
    assert (after / "tokenizer.model").read_bytes() == (before / "tokenizer.model").read_bytes()
    old, new = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (before, after))
    said = [
        answered(lost, "generate", path, "--prompt", "the", "--max-tokens", 5, "--temperature", 0)["token_ids"]
        for path in (before, written / EXPORTED)
    ]
    assert said[0] == said[1]  # an export of then is a model that commands take
    text = (written / "text.jsonl").read_text() + "Zwölf  Boxkämpfer\n\t東京 </s>"
    assert new.get_vocab() == old.get_vocab()
    assert new.encode(text).ids == old.encode(text).ids


@every_folder
def test_old_export_opens(written: Path, name: str) -> None:
    """With the code that stands in it: transformers continues the prompt as the run did."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = EXPECTED[name]["runs"][EXPORTED]["token_ids"]
    tokenizer = AutoTokenizer.from_pretrained(written / "export", trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(written / "export", dtype=torch.float32, trust_remote_code=True).eval()
    ids = tokenizer.encode(EXPECTED[name]["prompt"], add_special_tokens=False)
    prompt = torch.tensor([[tokenizer.eos_token_id, *ids]])
    made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=len(expected), do_sample=False)
    assert made[0, prompt.shape[1] :].tolist() == expected
