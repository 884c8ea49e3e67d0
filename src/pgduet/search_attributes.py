"""Registering pgduet's search attributes, by which the Temporal UI lists migrations by database, phase and state.

Limits: Temporal Cloud and guarded servers let only administrators do so; that is told, never fatal, for migrations run
without them.
"""

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from pgduet.messages import SEARCH_ATTRIBUTES

_TYPES = {
    "keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "int": IndexedValueType.INDEXED_VALUE_TYPE_INT,
}


async def register_search_attributes(client: Client) -> list[str]:
    """Register those that are missing, and say in a line what was done; nothing where all are there."""
    service, namespace = client.operator_service, client.namespace
    try:
        there = await service.list_search_attributes(ListSearchAttributesRequest(namespace=namespace))
        missing = {
            name: _TYPES[kind] for name, kind in SEARCH_ATTRIBUTES.items() if name not in there.custom_attributes
        }
        if not missing:
            return []
        await service.add_search_attributes(AddSearchAttributesRequest(namespace=namespace, search_attributes=missing))
    except RPCError as refused:
        return [f"search attributes are not registered: {refused.message}"]
    return [f"registered search attributes {', '.join(missing)}"]
