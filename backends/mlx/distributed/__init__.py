"""Training on several Macs."""
