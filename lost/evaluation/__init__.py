"""Evaluation: perplexity, scores of texts, tasks of lm-evaluation-harness; inspection."""
