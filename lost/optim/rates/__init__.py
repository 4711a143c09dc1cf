"""Learning rates: a run's, step by step (`schedule`), and which tensors have which (`groups`)."""
