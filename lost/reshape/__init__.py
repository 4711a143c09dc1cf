"""How weights become those of a model in another shape: operations on arrays by name, the same for both backends."""
