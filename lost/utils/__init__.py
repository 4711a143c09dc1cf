"""What any part may use: optional packages, facts about the machine, random numbers, threads, safe text."""
