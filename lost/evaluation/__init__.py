"""Evaluation: perplexity, scores of texts, samples, tasks of lm-evaluation-harness."""
