"""Speed measured: kinds of projection side by side, a layer and a whole step."""
