"""Commands about runs that were trained."""
