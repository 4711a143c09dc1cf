"""Several processes that train one model, and the launcher that started them."""
