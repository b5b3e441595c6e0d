"""What a run leaves and prints."""
