"""The optimizer, framework-free: learning rate schedules, its moments on disk, which updates are skipped."""
