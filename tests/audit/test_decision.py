"""What rounding explains is accepted, and nothing that it cannot tell apart is named."""
