"""Configuration of a Llama whose linear layers are stored as `projections` says (made by lost-pretrain)."""

from transformers.models.llama.configuration_llama import LlamaConfig


class LostConfig(LlamaConfig):
    """Llama's configuration and `projections`.

    `projections` maps the name of a linear layer to how it is stored: `layers.3.mlp.up_proj`, or `mlp.up_proj` for
    those of all other layers. `kind` is one of dense, lowrank (also with an activation), sltrain, lost.
    """

    model_type = "lost"
    base_model_tp_plan = None  # Llama's plan names plain matrices

    def stored(self, layer: int, part: str) -> dict:
        """Return how one linear layer is stored."""
        return self.projections.get(f"layers.{layer}.{part}") or self.projections[part]
