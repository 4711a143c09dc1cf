"""Names that other trainers give to what has a key here: what is answered to who types them."""

_OURS = {
    "optimizer.lr": "learning_rate max_lr peak_lr base_lr",
    "optimizer.name": "optim optimizer_name optimizer_type",
    "optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2",
    "optimizer.eps": "adam_epsilon epsilon",
    "optimizer.weight_decay": "wd",
    "schedule.steps": "max_steps max_iters iters iterations num_steps train_steps num_training_steps total_steps",
    "schedule.epochs": "num_train_epochs num_epochs epochs max_epochs",
    "schedule.tokens": "max_tokens train_tokens total_tokens",
    "schedule.warmup_steps": "warmup warmup_iters num_warmup_steps",
    "schedule.name": "lr_scheduler_type lr_scheduler scheduler lr_schedule decay_type",
    "schedule.min_lr_ratio": "min_lr lr_min",
    "data.seq_len": "max_seq_length max_seq_len seq_length sequence_length block_size context_length max_length",
    "train.batch_size": "global_batch_size total_batch_size effective_batch_size",
    "train.micro_batch_size": (
        "per_device_train_batch_size device_batch_size per_gpu_batch_size gradient_accumulation_steps grad_accum_steps"
    ),
    "train.grad_clip": "max_grad_norm gradient_clip_val gradient_clipping clip_grad_norm clip_grad",
    "train.checkpoint_activations": "gradient_checkpointing grad_checkpoint activation_checkpointing recompute",
    "train.keep_last": "save_total_limit max_checkpoints keep_checkpoints",
    "train.dtype": "bf16 fp16 fp32 precision mixed_precision torch_dtype amp",
    "train.param_dtype": "param_precision weight_dtype",
    "train.save_every": "save_steps save_interval checkpoint_interval steps_per_save save_iters",
    "train.eval_every": "eval_steps eval_interval steps_per_eval val_interval eval_iters",
    "train.sample_every": "sample_interval sample_freq generate_every",
    "train.log_every": "logging_steps log_interval steps_per_report",
    "train.compile": "torch_compile",
    "model.hidden_size": "d_model n_embd dim embed_dim hidden_dim",
    "model.intermediate_size": "ffn_dim d_ff ffn_hidden_size mlp_dim",
    "model.num_hidden_layers": "n_layer n_layers num_layers depth",
    "model.num_attention_heads": "n_head n_heads num_heads",
    "model.num_key_value_heads": "n_kv_heads n_kv_head num_kv_heads",
    "model.max_position_embeddings": "n_positions n_ctx",
    "projection.rank": "lora_rank lora_r",
    "tracking": "report_to logger",
}
OURS = {name: ours for ours, names in _OURS.items() for name in names.split()}
"""Our key by their name."""
