"""What the standard environment variables ask for.

`OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` and `OTEL_LOGS_EXPORTER` name exporters, separated by commas: `otlp`, `console`,
`none`, for metrics `prometheus`, or any other that is installed under such a name. Where one is not set, `otlp` is meant if an
endpoint is set for its signal, else nothing. The rest (endpoints, headers, intervals, samplers, resource) OpenTelemetry reads.
"""

import os
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Literal

from pgduet.errors import PgduetError

Signal = Literal["traces", "metrics", "logs"]
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_NO_EXPORTER = {"", "none"}


def disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the one switch turns everything off."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def wanted(signal: Signal, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Name the exporters that the environment asks for."""
    if disabled(environ):
        return []
    name = signal.upper()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")
    default = "otlp" if any(environ.get(endpoint) for endpoint in endpoints) else "none"
    asked = environ.get(f"OTEL_{name}_EXPORTER") or default
    return [word for word in (part.strip() for part in asked.split(",")) if word not in _NO_EXPORTER]


def exporters(signal: Signal, environ: Mapping[str, str] = os.environ) -> Iterator[Any]:
    """Give the exporters' classes.

    Raises:
        PgduetError: one of them is not installed, or is none that anybody knows.
    """
    for word in wanted(signal, environ):
        name = _otlp(signal, environ) if word == "otlp" else word
        found = list(entry_points(group=f"opentelemetry_{signal}_exporter", name=name))
        if not found:
            raise PgduetError(
                f'OTEL_{signal.upper()}_EXPORTER asks for "{word}", which is not installed (as {name})',
                hint="`pip install 'pgduet[telemetry]'` brings otlp over HTTP and prometheus. OTEL_SDK_DISABLED=true: none.",
            )
        yield found[0].load()


def _otlp(signal: Signal, environ: Mapping[str, str]) -> str:
    chosen = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = chosen or "http/protobuf"
    return _PROTOCOLS.get(protocol, protocol)
