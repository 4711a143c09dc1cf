"""The processes that train one model together, and the launcher that started them."""
