"""What a model is asked: perplexity, scores of texts, samples, tasks of lm-evaluation-harness."""
