"""Gradients before an update: is one fit for it (`skip_step`), how much of it is noise (`noise_scale`)."""
