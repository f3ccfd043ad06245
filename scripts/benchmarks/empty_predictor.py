"""A predictor that does nothing, to measure Cog alone."""

from cog import BaseRunner, Input


class EmptyPredictor(BaseRunner):  # type: ignore[misc]
    """Answers with its inputs."""

    async def run(self, query: str = Input(), encoding_format: str = Input(default="")) -> str:
        """Return the inputs."""
        return query + encoding_format
