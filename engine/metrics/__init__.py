"""Metrics of ranked lists: of each user's list, of all lists together, and by groups."""
