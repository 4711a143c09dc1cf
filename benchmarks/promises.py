"""What each promise's test does when the code that keeps the promise is removed: it must fail. Prints a table.

usage: python benchmarks/promises.py [--jobs N] [WORD...]        (40 minutes; WORD: only promises that contain it)

Every entry below takes something out of a copy of the tree, by its text, and runs one test there.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAULTS = "tests/faults/test_"
REFUSED = "tests/parity/test_export_refused.py::test_a_failed_check"
PATIENCE = 600  # seconds; without its protection a test may never end
HANDED_OVER = "            self.engine.load_optimizer_state(moments, progress.updates)\n"

# Promise, the file, what is taken out, what stands there instead, the test.
CASES = [
    ("resume is bit-exact", "lost/training/run.py", HANDED_OVER, "            pass\n",
     f"{FAULTS}interrupted.py::test_killed_and_resumed_is_bit_identical[torch]"),
    ("resume of two processes is bit-exact", "lost/training/run.py", HANDED_OVER, "            pass\n",
     f"{FAULTS}torchrun.py::test_resume_at_the_same_world_size_is_bit_exact"),
    ("any number of processes trains the same run", "backends/torch/distributed/sharded.py",
     "        dist.all_reduce(both)\n", "", f"{FAULTS}torchrun.py::test_every_world_size_trains_the_same_run[2-more1]"),
    ("what one number of processes saved another loads", "lost/storage/tensors.py",
     "first_rows[each] for each in part if each in first_rows", "0 for each in part if each in first_rows",
     f"{FAULTS}torchrun.py::test_what_any_world_size_saved_any_other_loads"),
    ("the backend may change", "lost/training/run.py", HANDED_OVER, "            pass\n",
     "tests/parity/test_hand_over.py::test_handed_over_twice"),
    ("kill -9 in a save: the one before is there", "lost/checkpoint/saver.py", '                failpoint("save.manifest")\n',
     '                any(map(remove, self._folder.glob("step-*")))\n                failpoint("save.manifest")\n',
     f"{FAULTS}fail_points.py::test_killed_in_a_save"),
    ("an error waits for the save before it", "lost/training/trainer.py", "            run.finish_saving(wait=True)\n",
     "            pass\n", f"{FAULTS}interrupted.py::test_an_error_waits_for_the_save_before_it"),
    ("kill -9 in a save: nothing is left over", "lost/storage/files.py",
     "    for path in stale_temps(folder):\n", "    for path in ():\n",
     f"{FAULTS}fail_points.py::test_killed_in_a_save"),
    ("a resume ends what a killed save left", "lost/training/run_dir.py",
     "            prune(start.path.parent, config.train.keep_last, config.train.keep_every, start.progress.step)\n", "",
     f"{FAULTS}fail_points.py::test_a_resume_first_ends_what_a_killed_save_left"),
    ("a damaged checkpoint is skipped", "lost/checkpoint/store.py",
     "            check_intact(checkpoint)\n", "            pass\n", f"{FAULTS}damage.py::test_a_damaged_checkpoint"),
    ("a damaged shard is refused", "lost/training/run_dir.py", "damaged = list(dataset.problems(*local_rank()))", "damaged = []",
     f"{FAULTS}damage.py::test_a_damaged_shard"),
    ("SIGTERM in training saves", "lost/training/trainer.py",
     "interrupted = stop() and progress.step < last\n        # What", "interrupted = False\n        # What",
     f"{FAULTS}interrupted.py::test_sigterm_saves_and_the_same_command_goes_on"),
    ("SIGTERM in a save", "lost/training/signals.py",
     "        stop.requested, stop.number = True, number\n", "        raise SystemExit(143)\n",
     f"{FAULTS}fail_points.py::test_told_to_stop_in_a_save"),
    ("SIGTERM in an evaluation", "lost/training/trainer.py",
     "            except StoppedError:\n", "            except KeyError:\n",
     f"{FAULTS}interrupted.py::test_an_evaluation_that_an_interruption_skipped_is_made_up"),
    ("a second signal leaves at once", "lost/training/signals.py", "        if stop.requested:\n", "        if False:\n",
     f"{FAULTS}interrupted.py::test_second_signal_leaves_at_once"),
    ("compiling, a signal leaves at once", "lost/training/signals.py",
     "        if stop.nothing_to_save:\n", "        if False:\n",
     f"{FAULTS}interrupted.py::test_before_the_first_step_there_is_nothing_to_wait_for"),
    ("a disk full on one is told to all", "lost/checkpoint/saver.py",
     "workers.all_gather(json.dumps([writing.fault, writing.files]))", "[json.dumps([writing.fault, writing.files])]",
     f"{FAULTS}fail_points.py::test_a_disk_that_is_full_on_one_worker"),
    ("what isn't finite is skipped", "backends/torch/optim/skip_step.py",
     "skip = ~(loss.isfinite() & norm.isfinite())", "skip = torch.zeros_like(norm, dtype=torch.bool)",
     f"{FAULTS}not_finite.py::test_a_run_goes_on_and_counts[torch]"),
    ("what isn't finite is skipped, on MLX", "lost/optim/gradients/skip_step.py",
     "is_spike or not math.isfinite(loss) or not math.isfinite(norm)", "is_spike",
     f"{FAULTS}not_finite.py::test_an_update_left_out_changes_nothing[mlx]"),
    ("too many in a row stop the run", "lost/training/run.py",
     "guard.in_a_row >= self.config.train.max_skipped", "False",
     f"{FAULTS}not_finite.py::test_too_many_in_a_row"),
    ("every sample once", "lost/data/permutation.py", "            values[outside] = self._encrypt(values[outside])\n",
     "            values[outside] %= np.uint64(self.size)\n", f"{FAULTS}every_sample_once.py"),
    ("every sample once, among processes", "lost/training/micro_batches.py",
     "            mine = step + self._engine.workers.rank * self._own_share\n", "            mine = step\n",
     f"{FAULTS}every_sample_once.py"),
    ("one job a folder", "lost/storage/flock.py",
     "        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "        pass\n",
     f"{FAULTS}one_job.py::test_a_second_job"),
    ("a name can't lead out of the folder", "lost/checkpoint/checkpoint.py",
     "        if Path(name).name != name or name in", "        if name in", "tests/core/test_checkpoint.py"),
    ("nothing is unpickled", "lost/storage/tensors.py", "            open_read(path).close()",
     "            __import__('pickle').loads(path.read_bytes())\n            open_read(path).close()",
     f"{FAULTS}damage.py::test_a_pickle_in_place_of_tensors_is_refused_unopened"),
    ("a changed configuration is refused", "lost/training/run_dir.py",
     "    if refused := fixed_differences(start.config, config, start.progress.step):\n", "    if False:\n",
     f"{FAULTS}damage.py::test_a_changed_configuration"),
    ("an export's logits are ours", "lost/interop/to_hf/check.py",
     "    if not difference <= tolerance * largest:\n", "    if False:\n", REFUSED),
    ("an export misses no key", "backends/torch/reader.py",
     "for kind, names in report.items() if names}:", "for kind, names in ()}:", REFUSED),
    ("an export's token ids are ours", "lost/interop/to_hf/check.py",
     "!= list(ids):\n", "!= list(ids) and False:\n", REFUSED),
    ("a GGUF file is what was to be written", "lost/interop/to_gguf/file.py",
     "        check_stored(name, array,", "        (lambda *_: None)(name, array,",
     "tests/parity/test_gguf.py::test_what_is_written_is_compared"),
    ("a GGUF file's control symbols are no text", "lost/interop/to_gguf/vocabulary/pieces.py",
     'f"{_APART}{piece.text}{_APART}" if reached', 'piece.text if reached',
     "tests/parity/test_gguf.py::test_ids_of_pieces[False]"),
    ("an upload is private unless it's wanted public", "lost/interop/hub/upload.py",
     "private=not public", "private=False", "tests/cli/test_hub.py::test_an_export_goes_up"),
    ("a hub's code and pickles stay there", "lost/interop/hub/download.py",
     "return [CONFIG, *({GENERATION} & held), *_of_tokenizer(name, held, get), *weights]", "return sorted(held)",
     "tests/cli/test_hub.py::test_a_model_is_imported_from_one_commit"),
    ("workers leave with their launcher", "lost/distributed/launcher.py",
     "        while os.getppid() == parent:\n", "        while True:\n",
     f"{FAULTS}one_job.py::test_workers_leave_with_their_launcher"),
    ("a run says why it stopped", "lost/tracking/log.py", "            self.note(text)\n", "            pass\n",
     f"{FAULTS}one_job.py::test_sigterm_to_the_launcher"),
    ("a run writes through no link", "lost/storage/nofollow.py", "(0 if follow else os.O_NOFOLLOW)", "0",
     f"{FAULTS}links.py::test_a_run_writes_nothing_through_links"),
    ("a run writes into no file with another name", "lost/storage/nofollow.py",
     "    if os.fstat(handle).st_nlink > 1:\n", "    if False:\n",
     f"{FAULTS}links.py::test_a_run_begins_with_no_link_that_it_needs"),
    ("pipes and devices are not read", "lost/storage/nofollow.py",
     "    if not stat.S_ISREG(os.fstat(handle).st_mode):\n", "    if False:\n",
     f"{FAULTS}links.py::test_a_pipe_is_not_waited_for[manifest.json]"),
    ("a folder of checkpoints is no link", "lost/checkpoint/store.py", "        check_folder(folder)\n", "        pass\n",
     f"{FAULTS}links.py::test_a_folder_of_checkpoints_that_leads_elsewhere"),
    ("prepare empties no folder behind a link", "lost/prepare/output.py",
     "        check_folder(partial) ", "        pass ",
     f"{FAULTS}links.py::test_prepare_empties_no_folder_behind_a_link"),
    ("prepare goes on with its own shards alone", "lost/data/writer.py",
     '[each["name"] for each in files] != ', "[] and ",
     f"{FAULTS}links.py::test_prepare_goes_on_with_shards_alone"),
    ("new files take the place of links", "lost/storage/nofollow.py",
     "    remove(path)\n    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW",
     "    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC",
     f"{FAULTS}links.py::test_a_new_file_takes_the_place_of_a_link"),
    ("other tools' folders lead nowhere else", "lost/storage/nofollow.py",
     "    if not target.is_relative_to(home) and target.parent != blobs:\n", "    if False:\n",
     f"{FAULTS}links.py::test_other_tools_folders_may_link_inside"),
    ("what is logged is escaped", "lost/tracking/log.py", "printable(' '.join(text.split()))", "' '.join(text.split())",
     f"{FAULTS}links.py::test_what_is_logged_steers_no_terminal"),
    ("indices are in range", "lost/storage/arrays.py", "or wrong_indices(array, below.get(name, 0))", 'or ""',
     f"{FAULTS}out_of_range.py::test_places_an_engine_is_given"),
    ("a checkpoint's indices are checked", "lost/checkpoint/verify.py",
     "if wrong := wrong_indices(array, limits.get(name, 0)):", 'if wrong := "":',
     f"{FAULTS}out_of_range.py::test_a_checkpoint_with_places_out_of_range"),
    ("tokens are in the vocabulary", "backends/torch/engine.py",
     "        check_tokens(batch.tokens, self._entries)\n", "",
     f"{FAULTS}out_of_range.py::test_tokens_an_engine_is_given[-1-torch]"),
    ("tokens are in the vocabulary, on MLX", "backends/mlx/engine.py",
     "        check_tokens(batch.tokens, self._entries)\n", "",
     f"{FAULTS}out_of_range.py::test_tokens_an_engine_is_given[-1-mlx]"),
    ("a tokenizer fits its model", "lost/checkpoint/checkpoint.py", "        if tokenizer.vocab_size > entries:\n",
     "        if False:\n", f"{FAULTS}out_of_range.py::test_a_tokenizer_larger_than_the_model"),
    ("a set's numbers are of our types", "lost/data/description.py", 'Literal["uint16", "uint32"]', "str",
     f"{FAULTS}out_of_range.py::test_a_description_that_describes_no_set"),
    ("a closed terminal saves", "cli/render/streams.py",
     "        except (OSError, ValueError) as error:  # ValueError: it was closed\n            self._drop(error)\n",
     "        except ZeroDivisionError:\n            pass\n", f"{FAULTS}output.py::test_a_closed_terminal_saves"),
    ("a full disk behind the output ends no run", "cli/render/streams.py",
     "        if self.error is None:\n", "        raise error\n        if self.error is None:\n",
     f"{FAULTS}output.py::test_a_full_disk_behind_the_output_ends_no_run"),
    ("a run that ends amid skipped updates fails", "lost/training/trainer.py",
     "        if ending and progress.guard.in_a_row:\n", "        if False:\n",
     f"{FAULTS}not_finite.py::test_a_run_that_ends_amid_trouble"),
    ("no good checkpoint makes way for a bad one", "lost/checkpoint/store.py",
     "[each for each in held if not each.progress.guard.in_a_row]", "held",
     f"{FAULTS}not_finite.py::test_a_run_that_ends_amid_trouble"),
    ("no NaN in metrics", "lost/tracking/metrics.py", "json.dumps(finite(row), allow_nan=False)", "json.dumps(row)",
     f"{FAULTS}unreadable.py::test_rows_and_manifests_are_json"),
    ("an unreadable checkpoint is skipped", "lost/storage/files.py",
     '    except OSError as error:\n        return f"can\'t be read: {error.strerror}"\n', "",
     f"{FAULTS}unreadable.py::test_a_file_that_can_not_be_opened"),
    ("a manifest that is too deep is skipped", "lost/utils/parsing.py", "    except RecursionError:\n",
     "    except ZeroDivisionError:\n", f"{FAULTS}unreadable.py::test_a_manifest_no_one_wrote"),
    ("rows that make no array are skipped", "lost/storage/tensors.py",
     "        if not shape:\n", "        if False:\n",
     f"{FAULTS}unreadable.py::test_weights_that_make_no_arrays"),
    ("errors that may pass end no run", "lost/storage/files.py", "        if error.errno in _DEFECTS:\n",
     "        if error.errno not in (errno.ENOSPC, errno.EIO):\n",
     f"{FAULTS}unreadable.py::test_an_error_that_may_pass"),
    ("a shard that changes is noticed", "lost/data/shards.py",
     "            if self._stamp:\n                self._check(file)\n", "",
     f"{FAULTS}shards_change.py::test_in_training[flipped-torch]"),
    ("a configuration expands to no more than it is", "lost/utils/parsing.py",
     "            if isinstance(event, yaml.AliasEvent):\n", "            if False:\n",
     "tests/core/test_config.py::test_yaml_that_harms[merge]"),
    ("names may be any bytes", "lost/prepare/sources.py",
     "os.fsencode(\"\\n\".join(unit.stamp for unit in self._units(_whole)))",
     "\"\\n\".join(unit.stamp for unit in self._units(_whole)).encode()",
     f"{FAULTS}names.py::test_of_text_and_of_what_is_prepared"),
    ("a dry run sees what a start would", "lost/training/begin/dry_run.py", "    check_run_folder(folder, start is not None)\n", "",
     f"{FAULTS}unreadable.py::test_a_dry_run_sees_what_a_start_would"),
]  # fmt: skip


def main() -> None:
    """Break, test, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="only promises that contain it")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time: several tests mostly wait")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.words or any(word in case[0] for word in options.words)]
    held = True
    asked = shlex.join(["python", "benchmarks/promises.py", *sys.argv[1:]])
    print(f"# Promises, and their tests without the code that keeps them\n\n`{asked}`\n")
    print("| promise | test | without |\n| --- | --- | --- |")
    with ThreadPoolExecutor(options.jobs) as pool:
        for (promise, *_, test), came in zip(cases, pool.map(lambda case: outcome(*case[1:]), cases), strict=True):
            held = held and came.endswith("failed")
            print(f"| {promise} | `{test.partition('::')[2] or test}` | {came} |", flush=True)
    sys.exit(0 if held else 1)


def outcome(file: str, text: str, instead: str, test: str) -> str:
    """Return how many tests of those named failed in a tree without a piece of text."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(".*", "runs", "*.egg-info"))
        source = (tree / file).read_text(encoding="utf-8")
        if source.count(text) != 1:
            raise SystemExit(f"{file} holds {source.count(text)} times what is to be removed: {text!r}")
        (tree / file).write_text(source.replace(text, instead), encoding="utf-8")
        place, _, name = test.partition("::")
        chosen = [test] if "[" in name else [place, "-k", name]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen]
        environment = {**os.environ, "PYTHONPATH": str(tree), "TMPDIR": folder}  # where tests put runs
        with subprocess.Popen(
            command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                said = process.communicate(timeout=PATIENCE)[0]
            except subprocess.TimeoutExpired:
                return "waited in vain, so failed"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                subprocess.run(["pkill", "-KILL", "-f", folder])  # workers that nothing stops any more
    counts = dict(reversed(pair) for pair in re.findall(r"(\d+) (failed|passed|error)", said))
    of = sum(int(count) for count in counts.values())
    return f"{counts.get('failed', 0)} of {of} failed" if "failed" in counts else f"PASSED: {said[-200:]!r}"


if __name__ == "__main__":
    main()
