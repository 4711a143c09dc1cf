"""Open an exported folder in every way that transformers has. A program, so that another Python can run it too.

python open_with_transformers.py FOLDER TOKENS.json WORK    prints one JSON object; WORK: an empty folder to save to
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer


def report(folder: Path, tokens: list[int], work: Path) -> dict[str, Any]:
    """Return what the model answers: its logits, and greedy continuations made in ways that must agree."""
    trust = {"trust_remote_code": True}
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **trust
    )
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    ids = torch.tensor([tokens])
    new = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}

    def continued(prompt: torch.Tensor = ids, model: Any = model, **options: Any) -> list[list[int]]:
        made = model.generate(prompt, **new, **{"attention_mask": torch.ones_like(prompt), **options})
        return [row[-12:].tolist() for row in made]

    short = ids[:, 3:]
    pad = torch.full((1, 3), tokenizer.pad_token_id)
    batch = torch.cat([ids, torch.cat([pad, short], dim=1)])
    mask = torch.ones_like(batch)
    mask[1, :3] = 0
    with torch.no_grad():
        logits = model(ids).logits
        trunk = AutoModel.from_pretrained(folder, dtype=torch.float32, **trust).eval()
        states = trunk(ids).last_hidden_state
        model.save_pretrained(work)
        again, loading_again = AutoModelForCausalLM.from_pretrained(
            work, dtype=torch.float32, output_loading_info=True, **trust
        )
        eager = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **trust)
        coarse = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **trust)
        return {
            "version": transformers.__version__,
            "classes": [type(model).__name__, type(trunk).__name__, type(tokenizer).__name__],
            "loading": {kind: sorted(map(str, names)) for kind, names in (*loading.items(), *loading_again.items())},
            "logits": logits[0].tolist(),
            "head_of_trunk": model.lm_head(states)[0].tolist(),
            "saved_again": again.eval()(ids).logits[0].tolist(),
            "eager": eager.eval()(ids).logits[0].tolist(),
            "bfloat16": coarse.eval()(ids).logits[0].float().tolist(),
            "greedy": continued()[0],
            "without_cache": continued(use_cache=False)[0],
            "static_cache": continued(cache_implementation="static")[0],
            "one_beam_of_three": continued(num_beams=3, num_return_sequences=1)[0],
            "beams_without_cache": continued(num_beams=3, num_return_sequences=1, use_cache=False)[0],
            "short": continued(short)[0],
            "left_padded": continued(batch, attention_mask=mask),
            "attention_interface": bool(type(trunk)._supports_attention_backend),
            "rope_theta": model.config.to_dict().get("rope_theta") or model.config.rope_parameters["rope_theta"],
        }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(report(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))))
