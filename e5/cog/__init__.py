"""Habits of Cog: its output, its folders of predictions, its parent process and its JSON."""
