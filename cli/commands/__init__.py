"""The sub-commands of `lost`, one file each."""
