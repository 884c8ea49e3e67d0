"""Says which extra an adapter needs, where its library is not installed."""

from pgduet.routing.model import ExtraMissing


def missing(extra: str, error: ImportError) -> ExtraMissing:
    """Give the error to raise instead of the interpreter's own."""
    message = f"This adapter needs the module {error.name}, which is not installed."
    return ExtraMissing(
        message, hint=f"Install an extra: pgduet-routing[{extra}], or pgduet[{extra}] beside the engine."
    )
