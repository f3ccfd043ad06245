"""How the built-in checkpoint is made and measured: text, teacher, student, evaluation."""
