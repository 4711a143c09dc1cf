"""What commands show: answers, progress, streams that never fail."""
