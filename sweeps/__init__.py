"""Many runs side by side: studies, and the grid of L2 strengths."""
