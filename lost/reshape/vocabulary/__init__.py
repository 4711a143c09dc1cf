"""Another vocabulary for a model: another tokenizer's, or what a text needs of its own."""
