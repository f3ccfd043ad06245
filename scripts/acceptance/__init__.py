"""From a clone to a verdict on a machine with a card: steps, their lines, and a report."""
