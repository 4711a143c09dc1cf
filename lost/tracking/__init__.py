"""What a run writes about itself: metrics.jsonl and log.txt."""
