"""OpenFeature: a migration as a flag, so that services which ask flags ask the router by them.

The flag's key is the migration's name, the context's targeting key is the key of the row or tenant. As a string the
flag is the version, as a boolean whether it is the new one, as an object both and the search_path. Variants are `old`
and `new`; the metadata have epoch and stage.

An unknown migration is `FLAG_NOT_FOUND`: the caller's default stands, which should mean the base tables. A targeting
key is only asked for while the route sends some keys one way and some the other: at any other time the default could
be a version that is not there.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pgduet.routing.adapters.extras import missing
from pgduet.routing.core import RouterCore
from pgduet.routing.decision import BUCKETS
from pgduet.routing.model import Path, RouteUnavailable

try:
    from openfeature.evaluation_context import EvaluationContext
    from openfeature.exception import FlagNotFoundError, GeneralError, TargetingKeyMissingError, TypeMismatchError
    from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
    from openfeature.provider import AbstractProvider, Metadata
except ImportError as error:
    raise missing("openfeature", error) from error

_T = TypeVar("_T")
_Object = Sequence[FlagValueType] | Mapping[str, FlagValueType]


class RouterProvider(AbstractProvider):
    """Answers flags from a router, sync or async, without I/O. The router stays its owner's to close."""

    def __init__(self, router: RouterCore) -> None:
        super().__init__()
        self._router = router

    def get_metadata(self) -> Metadata:
        """Name the provider."""
        return Metadata(name="pgduet")

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """Tell whether the path is the new one."""
        path, reason = self._decide(flag_key, evaluation_context)
        return self._details(flag_key, path, reason, path.is_new)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Tell the version."""
        path, reason = self._decide(flag_key, evaluation_context)
        return self._details(flag_key, path, reason, path.version or default_value)

    def resolve_object_details(
        self, flag_key: str, default_value: _Object, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[_Object]:
        """Tell all of the path."""
        path, reason = self._decide(flag_key, evaluation_context)
        facts: dict[str, FlagValueType] = {
            "version": path.version or "",
            "search_path": path.search_path or "",
            "is_new": path.is_new,
            "epoch": path.epoch,
        }
        return self._details(flag_key, path, reason, facts)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Refuse: a migration is no number."""
        raise _no_number(flag_key)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Refuse: a migration is no number."""
        raise _no_number(flag_key)

    def _decide(self, migration: str, context: EvaluationContext | None) -> tuple[Path, Reason]:
        key = context.targeting_key if context else None
        choice = self._router.choice(migration)
        if choice is None:
            message = f"The database has no route of the name {migration}."
            raise FlagNotFoundError(message)
        splits = 0 < choice.within < BUCKETS and self._router.fresh
        if splits and key is None:
            message = f"{migration} goes by the key of what is read: set the targeting key."
            raise TargetingKeyMissingError(message)
        try:
            path = self._router.path(migration, key or "")
        except RouteUnavailable as refused:
            raise GeneralError(refused.message) from refused
        if not self._router.fresh:
            return path, Reason.STALE
        return path, Reason.SPLIT if splits else Reason.STATIC

    def _details(self, migration: str, path: Path, reason: Reason, value: _T) -> FlagResolutionDetails[_T]:
        return FlagResolutionDetails(
            value=value,
            reason=reason,
            variant="new" if path.is_new else "old",
            flag_metadata={"epoch": path.epoch, "stage": self._router.stage(migration).value},
        )


def _no_number(migration: str) -> TypeMismatchError:
    return TypeMismatchError(f"{migration} is a version (string), a side (boolean) or a path (object).")
