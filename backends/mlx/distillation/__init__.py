"""Learning from a teacher: the model that predicts, and the loss beside what it predicts."""
