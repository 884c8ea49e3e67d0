"""How a trace travels through Temporal: W3C trace context in the header that Temporal's own SDKs use.

A header that cannot be read is no header: a stranger's client must not be able to fail a workflow by one.
"""

from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadConverter

PARENT = "_tracer-data"
"""The key of Temporal's Go, Java, TypeScript and Python interceptors, so that their clients' traces go on in ours."""
LINK = "_pgduet-link"
"""The run before, where a workflow continued as new: a trace of its own, linked."""

Carrier = dict[str, str]
Headers = Mapping[str, Payload]

_W3C = TraceContextTextMapPropagator()
_CONVERTER = PayloadConverter.default


def read(headers: Headers, key: str = PARENT) -> Carrier:
    """Take a trace context out of headers; empty where there is none."""
    payload = headers.get(key)
    if payload is None:
        return {}
    try:
        found = _CONVERTER.from_payloads([payload])[0]
    except Exception:  # noqa: BLE001  (whatever a stranger has put there)
        return {}
    return (
        {str(name): value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
    )


def added(headers: Headers, carrier: Carrier, key: str = PARENT) -> Headers:
    """Put a trace context into headers."""
    return {**headers, key: _CONVERTER.to_payloads([carrier])[0]} if carrier else headers


def context(carrier: Carrier) -> Context:
    """Turn a carrier into a context that holds nothing else."""
    return _W3C.extract(carrier, context=Context())


def carrier(span: Span) -> Carrier:
    """Turn a span into a carrier; empty where nothing is traced."""
    made: Carrier = {}
    _W3C.inject(made, context=set_span_in_context(span, Context()))
    return made
