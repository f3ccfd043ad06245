"""Any `Encoder` in the words of other frameworks, each in a module that only its users import."""
