"""Sections of a configuration: what a run is, field by field, with defaults.

The text below a field is what `lost config` and docs/configuration.md say of the key.
Values are checked one by one here; `lost.config.document` reads files and words the messages. Names follow Hugging Face
where it has one.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lost.config.fields import Count, Float, Fraction, Int, Natural, NotNegative, Positive, Section, Share
from lost.config.model import ModelConfig
from lost.config.projection import ProjectionConfig
from lost.config.registry import OPTIMIZERS
from lost.config.schedule import ScheduleConfig
from lost.storage.nofollow import check_name

PathText = Annotated[str, AfterValidator(check_name)]


def _check_label(label: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", label):
        raise ValueError(f"{label!r:.60} can't stand beside a number; expected up to 40 letters, digits, _ or -")
    return label


Label = Annotated[str, AfterValidator(_check_label)]

DType = Literal["float32", "bfloat16"]
DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2}


class DataConfig(Section):
    """The prepared text, and the length of its samples."""

    path: PathText | None = None
    """Folder written by `lost prepare`."""
    mixture: dict[PathText, Positive] | None = None
    """Instead of `path`, several such folders, each with its share of the samples: `{data/web: 0.7, data/code: 0.3}`.
    Only proportions count."""
    also_evaluate: dict[Label, PathText] = {}  # noqa: RUF012 - pydantic copies it
    """Further prepared sets of the same tokenizer, by names of yours, whose validation text is evaluated whenever the
    run's own is: `{code: data/code}`."""
    seq_len: Count = 256
    """Tokens of a sample. Longer ones teach longer contexts, and take more memory and time."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "DataConfig":
        if self.path is not None and self.mixture is not None:
            raise ValueError(f"path = {self.path} and mixture = {self.mixture} are both set; leave one of them out")
        if self.mixture is not None and not self.mixture:
            raise ValueError("mixture = {} names no set; expected folders with weights; leave it out, or name some")
        return self


class EarlyStop(Section):
    """When a run ends before its schedule does, by the validations that are due (`train.eval_every`)."""

    patience: Count
    """Validations in a row, none of them better than the best before, after which the run ends."""
    min_delta: NotNegative = 0.0
    """By how much a loss must be below the best before to be better, in nats a token."""


class TrainConfig(Section):
    """Batches, precision, how often something is done. Times are in optimizer steps."""

    batch_size: Count = 512
    """Sequences an optimizer step, over all devices and micro-batches."""
    micro_batch_size: Count | Literal["auto"] | None = "auto"
    """Sequences in memory at once: what is computed stays the same, but for rounding. auto: as many as fit by the
    estimate of memory, on a CPU at most 16,384 tokens; a run keeps its number while it suits the device. null: the
    whole batch."""
    replicas: Count = 1
    """Under torchrun: copies of the model, each sharded over an equal number of processes (HSDP). With MLX every
    process holds a copy."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Type of computation. bfloat16 is faster on accelerators, and less exact. auto: bfloat16 if it is over 5 % faster,
    which `lost train` measures in 20 steps where a run begins, and the run keeps; for all else as `param_dtype`."""
    param_dtype: DType = "float32"
    """Type of weights and moments. bfloat16 is pure bf16: half the memory, but small updates are lost to rounding."""
    frozen_dtype: DType | None = None
    """Type of weights that aren't trained (docs/adapters.md); null: `param_dtype`. bfloat16 halves their memory, and
    rounds them where a run begins."""
    matmul_precision: Literal["highest", "high"] = "highest"
    """Of products of float32 in PyTorch on CUDA, muon's too, as `torch.set_float32_matmul_precision` has it. high:
    factors are rounded to TF32, 10 bits of fraction instead of 23, which tensor cores multiply. Elsewhere highest."""
    compile: bool | None = None
    """Whether training is compiled, by PyTorch block by block. null: the device's default, which is yes on Metal (MLX),
    and on CUDA where Triton, a C compiler and Python's headers are installed; else no."""
    deterministic: bool = False
    """Whether PyTorch takes kernels that add up in a fixed order, where it has others: on CUDA, so that a resumed run
    is the same to the bit. Slower, by how much isn't known. CPUs need none of it; MPS and Metal refuse."""
    checkpoint_activations: Literal["none", "narrow", "full"] = "none"
    """What the backward pass recomputes instead of saving. narrow: everything wider than the projections' bottlenecks,
    except the residual stream; full: everything inside a block. Slower, but takes less memory."""
    grad_clip: NotNegative = 1.0
    """Largest L2 norm of all gradients together; 0 disables clipping."""
    z_loss: NotNegative = 0.0
    """Weight of the squared log-sum-exp of the logits beside the loss (PaLM's has 1e-4), which keeps logits from
    drifting off; the losses that are shown are without it."""
    skip_spikes: Annotated[Float, Field(gt=1)] | None = None
    """Skip updates whose gradient norm exceeds its running mean by this factor; null: skip only those that aren't
    finite."""
    max_skipped: Count = 10
    """Consecutive skipped updates after which the run stops; looked at every so many steps, and before a save."""
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    """Of the initial weights and of the data's order: everything random in a run."""
    log_every: Natural = 10
    """Steps from one row of metrics.jsonl to the next, a line on screen where that is no terminal; 0: only where a
    checkpoint is written."""
    eval_every: Natural = 500
    """Steps from one validation to the next; 0: none during training. Its end always has one."""
    eval_tokens: Count | None = None
    """Validation tokens of one evaluation, `lost eval RUN` included; null: all, of which alone bits per byte are
    known. Of a mixture each set has its share."""
    inspect_every: Natural = 0
    """Steps from one inspection to the next: root mean squares of activations after each block, the largest logit, and
    of every projection's weight the largest singular value and the effective rank. 0: none. Decompositions of all
    weights on the CPU, exact: seconds for a small model, minutes for a dense one of 1B."""
    noise_scale_every: Natural = 0
    """Steps from one measurement of the gradient noise scale (arXiv 1812.06162) to the next: a batch of about so many
    tokens is as large as is worth it. Each takes the time of a step, and memory for one more gradient; a step must have
    several micro-batches. 0: none."""
    sample_every: Natural = 0
    """Steps from one set of samples to the next: texts that the model writes, which change nothing of the run. 0:
    none."""
    sample_prompts: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=16)] = []  # noqa: RUF012
    """What samples continue, as it stands: up to 16 texts of up to 1,000 characters. Empty: the beginning of a text."""
    sample_tokens: Annotated[Int, Field(ge=1, le=1024)] = 64
    """Most tokens of a sample. With its prompt it has no more than `data.seq_len`."""
    sample_temperature: NotNegative = 0.8
    """Of samples; 0 always takes the likeliest token. Random numbers are those of `seed`, the step and the prompt's
    place."""
    save_every: Natural = 500
    """Steps from one checkpoint to the next; 0: only when training ends, or is interrupted."""
    keep_last: Count = 2
    """Checkpoints to keep, besides the best among those with an evaluation at the same step."""
    keep_every: Natural = 0
    """Checkpoints at multiples of this step are never removed; 0: all may be."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """What to do when a checkpoint can't be written: stop, or continue and try again at the next one."""
    stop_after: Count | None = None
    """Stop after this step, the schedule unchanged; null: at the schedule's end. Raise or remove it to go on."""
    early_stop: EarlyStop | None = None
    """Stop where validations get no better: `{patience: 3}`; null: don't. Raise its patience or remove it to go on."""

    @model_validator(mode="after")
    def _keys_agree(self) -> "TrainConfig":
        if self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch_size = {self.micro_batch} doesn't divide batch_size = {self.batch_size}; choose a divisor"
            )
        if self.early_stop and not self.eval_every:
            raise ValueError(
                "early_stop goes by validations, and eval_every = 0 makes none; raise it, or remove early_stop"
            )
        if self.param_dtype == "bfloat16" and self.compute_dtype == "float32":
            raise ValueError("param_dtype = bfloat16 needs dtype = bfloat16: weights can't be coarser than computation")
        return self

    @property
    def product_dtype(self) -> str:
        """What CUDA multiplies: bfloat16, float32 or tf32."""
        computed = self.compute_dtype
        return "tf32" if (computed, self.matmul_precision) == ("float32", "high") else computed

    @property
    def compute_dtype(self) -> DType:
        """Type of computation; that of the weights where it is still to be measured."""
        return self.param_dtype if self.dtype == "auto" else self.dtype

    @property
    def micro_batch(self) -> int:
        """Sequences in memory at once; the whole batch where no number is set."""
        return self.micro_batch_size if isinstance(self.micro_batch_size, int) else self.batch_size


class OptimizerConfig(Section):
    """The optimizer; weight decay applies to matrices only."""

    name: Annotated[str, AfterValidator(OPTIMIZERS.check)] = "adamw"
    """adamw (Loshchilov and Hutter, arXiv 1711.05101). adamw8bit: moments in 8 bits, block by block (Dettmers et al.,
    arXiv 2110.02861); PyTorch only, with torchao. muon (arXiv 2502.16982): orthogonal updates of the matrices inside
    the blocks, AdamW for the rest. spectron (arXiv 2602.12429): Muon-style updates whose length is limited by the
    spectral norms of both factors."""
    lr: Positive = 3e-3
    """Peak learning rate. The first thing to tune, and to lower when a loss diverges; larger models need less."""
    embedding_lr: Positive | None = None
    """Peak rate of the embedding; null: `lr`."""
    head_lr: Positive | None = None
    """Peak rate of the head, where it isn't the embedding; null: `lr`."""
    base_width: Count | None = None
    """`model.hidden_size` of a narrower model, whose best rates and decay are given here: those of this one follow by
    its width (docs/planning.md, which says what else must be alike). null: they are this model's own."""
    momentum: Fraction = 0.95
    """Of muon and spectron: share of the running gradient that stays with each step."""
    scale: Literal["match_rms_adamw", "spectral", "original"] = "match_rms_adamw"
    """Length of muon's updates, by their matrix's shape; the formulas are in docs/optimizers.md."""
    split_up: bool = False
    """Whether muon orthogonalizes the low-rank and the kept columns of `up` apart."""
    orthogonalize_dtype: DType = "float32"
    """Type in which muon and spectron orthogonalize."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Of AdamW: what stays with each step of the running means of gradients and of their squares."""
    eps: Positive = 1e-8
    """Of AdamW: added to the root of the mean square."""
    weight_decay: NotNegative = 0.0
    """Share of a matrix, times the learning rate, that a step takes away (decoupled)."""


class TeacherConfig(Section):
    """A trained model that this one learns from too (distillation): training's loss is then (1 - weight) CE + weight
    T^2 KL(teacher || student), with both models' logits over T. Validation is plain CE."""

    path: PathText | None = None
    """A run, a checkpoint, an export, or a Hugging Face folder of the same tokenizer; or what `lost teach` wrote, which
    needs none of the teacher's weights. null: there is no teacher. It may move, and a run is refused another one."""
    weight: Share = 0.5
    """Of the teacher's part; the text's own has the rest."""
    temperature: Positive = 1.0
    """T: above 1, what the teacher thinks unlikely counts for more."""


def _settings(value: Any) -> Any:
    """Return empty settings for `NAME: true`."""
    return {} if value is True else value


class Config(Section):
    """A whole run."""

    model: ModelConfig
    projection: ProjectionConfig = ProjectionConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig
    teacher: TeacherConfig = TeacherConfig()
    tracking: dict[str, Annotated[dict[str, Any], BeforeValidator(_settings)]] = {}  # noqa: RUF012
    """Trackers by name, besides metrics.jsonl and log.txt, each with its settings, or `true` if it needs none."""

    @model_validator(mode="after")
    def _the_optimizer_agrees(self) -> "Config":
        if self.optimizer.name in OPTIMIZERS:
            OPTIMIZERS[self.optimizer.name].check(self)
        return self

    @model_validator(mode="after")
    def _positions_suffice(self) -> "Config":
        if self.data.seq_len > self.model.max_position_embeddings:
            raise ValueError(
                f"data.seq_len = {self.data.seq_len} is more than model.max_position_embeddings = "
                f"{self.model.max_position_embeddings}; raise the latter or shorten the sequences"
            )
        return self

    @property
    def last_step(self) -> int:
        """The step at which training ends: the schedule's end, or `stop_after` before it."""
        return min(self.schedule.total_steps, self.train.stop_after or self.schedule.total_steps)

    @property
    def tokens_per_step(self) -> int:
        """The tokens of an optimizer's step, over all processes."""
        return self.train.batch_size * self.data.seq_len

    def replace(self, section: str, **changes: Any) -> "Config":
        """Return a copy with changed fields in one section, validated again."""
        raw = self.model_dump()
        raw[section].update(changes)
        return Config.model_validate(raw)
