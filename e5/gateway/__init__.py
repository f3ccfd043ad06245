"""The wire formats that other clients already speak, in front of one service."""
