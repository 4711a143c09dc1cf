"""Several Macs that train one model."""
