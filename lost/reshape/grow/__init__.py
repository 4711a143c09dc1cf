"""A trained model grown: deeper, wider, of more rank, with more kept channels; computing the same where it can."""
