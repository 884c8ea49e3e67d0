"""What the standard environment variables ask for.

`OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` and `OTEL_LOGS_EXPORTER` name exporters, separated by commas: `otlp`, `console`,
`none`, for metrics `prometheus`, or any other that is installed under such a name. Where one is not set, `otlp` is meant if an
endpoint is set for its signal, else nothing. The rest (endpoints, headers, intervals, samplers, resource) OpenTelemetry reads.
"""

import os
import sys
from importlib.metadata import entry_points
from typing import Any, Literal

from pgduet.errors import PgduetError

Signal = Literal["traces", "metrics", "logs"]
SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_NO_EXPORTER = {"", "none"}


def disabled() -> bool:
    """Tell whether the one switch turns everything off."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def wanted(signal: Signal) -> list[str]:
    """Name the exporters that the environment asks for."""
    if disabled():
        return []
    name = signal.upper()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")
    default = "otlp" if any(os.environ.get(endpoint) for endpoint in endpoints) else "none"
    asked = os.environ.get(f"OTEL_{name}_EXPORTER") or default
    return [word for word in (part.strip() for part in asked.split(",")) if word not in _NO_EXPORTER]


def exporters(signal: Signal) -> list[Any]:
    """Make the exporters.

    Raises:
        PgduetError: one of them is not installed, is none that anybody knows, or cannot be set up.
    """
    return [_made(signal, word) for word in wanted(signal)]


def _made(signal: Signal, word: str) -> Any:
    name = _otlp(signal) if word == "otlp" else word
    found = list(entry_points(group=f"opentelemetry_{signal}_exporter", name=name))
    if not found:
        raise PgduetError(
            f'the environment asks for {signal} by the exporter "{word}", which is not installed (as {name})',
            hint="`pip install 'pgduet[telemetry]'` brings otlp over HTTP and prometheus. OTEL_SDK_DISABLED=true: none.",
        )
    try:
        # What a command prints on stdout is its answer.
        return found[0].load()(**({"out": sys.stderr} if word == "console" else {}))
    except (ImportError, OSError, ValueError) as error:
        raise PgduetError(
            f'the exporter "{word}" for {signal} cannot be set up: {error}',
            hint="Correct the OTEL_… variables of this process. OTEL_SDK_DISABLED=true: no telemetry.",
        ) from error


def _otlp(signal: Signal) -> str:
    chosen = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    protocol = chosen or "http/protobuf"
    return _PROTOCOLS.get(protocol, protocol)
