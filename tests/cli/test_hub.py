"""Models of a hub, down and up: the library's protocol, spoken by a stand-in on this machine."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exports import SIZES, checkpoint_of
from folders import contents
from hub_server import Hub, Repository, running
from huggingface_hub import constants
from processes import run_python

from lost.checkpoint import open_checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.interop.hub.upload import upload
from lost.interop.to_hf.check import READERS
from lost.interop.to_hf.folder import export
from lost.tokenizer import same_ids

TOKEN = "hf_that_nobody_may_see"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, and the library as HF_ENDPOINT and HF_HOME would set it, which it reads once."""
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        place = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "".join(place[1:]))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def folder(config: Callable[..., Config], prepared: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in several files, of which nothing is checked."""
    place = tmp_path_factory.mktemp("hub")
    source = checkpoint_of(config(projection={"kind": "dense"}, model=SIZES), place / "source", prepared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lost.interop.to_hf.folder.READERS", {})
        export(source, place / "out", "dense", part_bytes=1 << 17)
    return place


def model(folder: Path) -> Repository:
    """A repository with more in it than a model's files."""
    files = contents(folder / "out")
    return Repository({**files, "pytorch_model.bin": b"code", "modeling.py": b"code", "other.safetensors": b"unread"})


def test_a_model_is_imported_from_one_commit(lost: Callable, hub: Hub, folder: Path, tmp_path: Path) -> None:
    """Only what is read comes down, and the commit is named where the weights came from."""
    hub.repositories["some/one"] = model(folder)
    done = lost("convert", "hf://some/one", tmp_path / "out", "--from", "hf", "--json")
    assert done.code == 0, done.err
    sha = hub.repositories["some/one"].sha
    assert Path(json.loads(done.out)["source"]) == tmp_path / "cache" / "models--some--one" / "snapshots" / sha
    held = dict(open_checkpoint(folder / "source").parameters())
    assert all((array == held[name]).all() for name, array in open_checkpoint(tmp_path / "out").parameters())
    read = {each.rpartition("/")[2] for each in hub.requests if "/resolve/" in each}
    parts = {path.name for path in (folder / "out").glob("*.safetensors")}
    assert len(parts) > 1
    assert read == {"config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
                    "tokenizer_config.json", "model.safetensors.index.json", *parts}  # fmt: skip
    assert all(f"/resolve/{sha}/" in each for each in hub.requests if "/resolve/" in each)
    assert TOKEN not in done.out + done.err


@pytest.mark.slow
def test_the_environment_names_the_hub(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repositories["some/one"] = model(folder)
    place = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = ("-m", "lost", "convert", "hf://some/one", tmp_path / "out", "--from", "hf")
    run_python(*command, cold=True, check=True, **place)
    sha = hub.repositories["some/one"].sha
    assert (tmp_path / "home" / "hub" / "models--some--one" / "snapshots" / sha / "config.json").exists()


def test_a_run_begins_with_a_model_of_the_hub_and_resumes_without_it(
    lost: Callable, hub: Hub, folder: Path, tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    hub.repositories["some/one"] = model(folder)
    sha = hub.repositories["some/one"].sha
    text = tiny_yaml.read_text()
    tiny_yaml.write_text("data:" + text.partition("data:")[2])
    run = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", "schedule.steps=2")
    begin = (*run, "--init-from", "hf://some/one@main")
    assert lost(*begin, "--set", "train.stop_after=1").code == 0
    origin = open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000001").progress.origin
    assert origin is not None
    assert origin.path.endswith(f"models--some--one/snapshots/{sha}")
    hub.repositories.clear()
    done = lost(*run, "--init-from", f"hf://some/one@{'0' * 40}")
    assert (done.code, "started with" in done.err) == (2, True)
    assert f"--init-from hf://some/one@{'0' * 40}: the run in" in done.err
    assert lost(*begin).code == 0


def test_adapters_name_their_base_as_the_hub_does(
    lost: Callable, hub: Hub, folder: Path, tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    """With its commit, so that they open on another machine, whose cache is elsewhere."""
    hub.repositories["some/one"] = model(folder)
    text = tiny_yaml.read_text()
    tiny_yaml.write_text("data:" + text.partition("data:")[2])
    chosen = ("schedule.steps=2", "projection.kind=lora", "projection.rank=4")
    sets = [word for each in chosen for word in ("--set", each)]
    run, begin = tmp_path / "run", ("--init-from", "hf://some/one", "--data", prepared.path)
    done = lost("train", tiny_yaml, *begin, "--out", run, *sets)
    assert done.code == 0, done.err
    assert lost("convert", run, tmp_path / "adapter", "--to", "peft").code == 0
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    named = (described["base_model_name_or_path"], described["revision"])
    assert named == ("some/one", hub.repositories["some/one"].sha)
    words = ("--to", "peft", "--overwrite", "--license", "mit", "--push", "me/adapters")
    done = lost("convert", run, tmp_path / "adapter", *words, "--dry-run")
    assert (done.code, "would get README.md" in done.out, "removed" in done.out) == (0, True, False), done.err
    done = lost("convert", run, tmp_path / "adapter", *words)
    assert done.code == 0, done.err
    there = hub.repositories["me/adapters"].files
    assert there.keys() == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert there["README.md"].startswith(b"---\nlibrary_name: peft\nbase_model: some/one\nlicense: mit\n")
    assert f'from_pretrained("some/one", revision="{named[1]}")'.encode() in there["README.md"]
    assert str(tmp_path).encode() not in b"".join(there.values())


def test_its_tokenizer_alone_comes_down_for_data(lost: Callable, hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repositories["some/one"] = model(folder)
    (tmp_path / "text.txt").write_text("the rank of the layer\n" * 99)
    done = lost("prepare", tmp_path / "text.txt", "--tokenizer", "hf://some/one", "--out", tmp_path / "data")
    assert done.code == 0, done.err
    assert same_ids(Dataset(tmp_path / "data").tokenizer, open_checkpoint(folder / "source").tokenizer())
    read = {each.rpartition("/")[2] for each in hub.requests if "/resolve/" in each}
    assert read == {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"}


def test_models_that_the_hub_does_not_give(
    monkeypatch: pytest.MonkeyPatch, lost: Callable, hub: Hub, folder: Path, tmp_path: Path
) -> None:
    whole = model(folder)
    hub.repositories["some/gated"] = Repository(whole.files, gated=True)
    hub.repositories["some/pickled"] = Repository({"config.json": b"{}", "pytorch_model.bin": b"code"})
    index = json.dumps({"weight_map": {"a": "../../x.safetensors"}}).encode()
    hub.repositories["some/evil"] = Repository({"config.json": b"{}", "model.safetensors.index.json": index})
    hub.repositories["some/one"] = whole
    for name, reason in (
        ("hf://some/none", "isn't on the hub, or is private"),
        ("hf://some/one@v2", "has no such revision"),
        ("hf://some/gated", "is gated"),
        ("hf://some/pickled", "pickled weights are never read"),
        ("hf://some/evil", "a file outside its folder"),
        ("hf://nobody", "names no model of the hub"),
        ("hf://../x", "names no model of the hub"),
        ("hf:/nobody", "hf:/nobody names no model of the hub; expected hf://owner/name"),
        ("./hf:/nobody", "hf:/nobody doesn't exist"),
        ("hf:", "hf: doesn't exist"),
    ):
        done = lost("eval", name, "--text", "x")
        assert (done.code, reason in done.err) == (2, True), (name, done.err)
        assert TOKEN not in done.err
    assert not [each for each in hub.requests if each.endswith((".bin", "x.safetensors"))]
    done = lost("convert", "hf://some/one@main", tmp_path / "out")
    assert (done.code, "hf://some/one@main is an export, or a model of another library" in done.err) == (2, True)
    assert "CHECKPOINT --from hf`" in done.err
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    done = lost("inspect", "hf://some/one")
    assert (done.code, "the hub can't be reached" in done.err) == (75, True)


def test_an_export_goes_up(
    monkeypatch: pytest.MonkeyPatch, lost: Callable, hub: Hub, folder: Path, tmp_path: Path
) -> None:
    """Private unless it is wanted public; what a broken upload sent isn't sent again; a dry run sends nothing."""
    for module in READERS.values():
        monkeypatch.setitem(__import__("sys").modules, module, None)
    convert = ("convert", folder / "source", tmp_path / "out", "--to", "hf", "--license", "gpl-2.0+", "--json")
    done = lost(*convert, "--push", "me/mine", "--dry-run")
    assert done.code == 0, done.err
    told = json.loads(done.out)["push"]
    assert (told["private"], told["commit"], hub.requests) == (True, None, [])
    assert told["files"] == {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert "removed: model*.safetensors" in lost(*convert[:-1], "--push", "me/mine", "--dry-run", "--overwrite").out
    hub.refusals = [503] * 9
    done = lost(*convert, "--push", "me/mine", "--overwrite")
    assert (done.code, "the same command with --overwrite goes on" in done.err) == (75, True), done.err
    assert [each for each in hub.requests if each.startswith("PUT")]
    hub.refusals, hub.requests = [], []
    done = lost(*convert, "--push", "me/mine", "--overwrite")
    assert done.code == 0, done.err
    made = hub.repositories["me/mine"]
    assert json.loads(done.out)["push"]["commit"].endswith(made.sha)
    assert not [each for each in hub.requests if each.startswith("PUT")]
    assert made.private
    assert made.files == contents(tmp_path / "out")
    assert b"\nlicense: gpl-2.0+\n" in made.files["README.md"]
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.out + done.err
    assert not any(TOKEN.encode() in content for content in made.files.values())
    for private, options, seen in ((False, (), "is there and public"), (True, ("--public",), "is there and private")):
        there = hub.repositories["me/there"] = Repository(private=private)
        done = lost(*convert, "--push", "me/there", "--overwrite", *options)
        assert (done.code, seen in done.err, there.files, there.private) == (2, True, {}, private), done.err
    assert lost(*convert, "--push", "me/open", "--public", "--overwrite").code == 0
    assert not hub.repositories["me/open"].private


def test_a_second_upload_takes_the_place_of_the_weights(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """Of its own form, in one commit; what else its owner has there stays, and what went is told."""
    one, gguf, parts = tmp_path / "one", tmp_path / "gguf", folder / "out"
    for path, name in ((one, "model.safetensors"), (gguf, "model-f16.gguf")):
        path.mkdir()
        (path / name).write_bytes(b"old")
    notes = {"notes.md": b"mine", "model-q8_0.gguf": b"earlier"}
    hub.repositories["me/mine"] = Repository({**notes}, private=True)
    assert upload(one, "me/mine", False).removed == []
    hub.requests = []
    assert upload(parts, "me/mine", False).removed == ["model.safetensors"]
    assert hub.repositories["me/mine"].files == {**notes, **contents(parts)}
    assert len([each for each in hub.requests if "/commit/" in each]) == 1
    assert upload(gguf, "me/mine", False).removed == ["model-q8_0.gguf"]
    weights = sorted(name for name in contents(parts) if name.startswith("model"))
    assert upload(one, "me/mine", False).removed == weights
    kept = {name for name in contents(parts) if not name.startswith("model")}
    assert set(hub.repositories["me/mine"].files) == {"notes.md", *kept, *contents(one), *contents(gguf)}


def test_uploads_that_cannot_be(monkeypatch: pytest.MonkeyPatch, lost: Callable, hub: Hub, folder: Path) -> None:
    """Each is refused before anything is exported."""
    source, out = folder / "source", folder / "never"
    monkeypatch.delenv("HF_TOKEN")
    for options, reason in (
        (("--to", "hf", "--push", "me/mine"), "expected a token"),
        (("--to", "hf", "--push", "../mine"), "can't name a repository"),
        (("--to", "hf", "--push", "me/one--two", "--dry-run"), "can't name a repository of the hub: Cannot have -- or"),
        (
            ("--to", "lost", "--push", "me/mine"),
            "--push me/mine without --to hf, --to mlx-lm, --to dense, --to g",
        ),
        (("--to", "hf", "--public"), "--public without --push"),
        (("--to", "hf", "--dry-run"), "--dry-run without --push"),
        (("--to", "hf", "--license", "a: b"), "--license a: b: expected a licence by the hub's name"),
        (("--to", "gguf", "--license", "mit"), "--license mit without --to hf, --to mlx-lm, --to dense or --to peft"),
    ):
        done = lost("convert", source, out, *options)
        assert (done.code, reason in done.err) == (2, True), (options, done.err)
    assert not out.exists()
    assert hub.requests == []
