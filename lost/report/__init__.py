"""What runs say of themselves, to be looked at: curves, layers, what differs; as one page, or as a picture."""
