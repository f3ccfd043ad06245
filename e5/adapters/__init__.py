"""Encoders behind the interfaces of other frameworks, in one module for each framework."""
