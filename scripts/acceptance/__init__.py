"""The acceptance of a checkpoint on a machine with a card: steps and a report of their lines."""
