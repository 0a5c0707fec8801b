"""The RPCs of retention: requests in, domain calls, messages out. Knows no SQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from klinecast.api.results.v1 import results_service_pb2 as pb
from klinecast.api.results.v1 import retention_pb2
from klinecast.convert.market import id_from_proto
from klinecast.convert.violations import Violations
from klinecast.errors import QuotaViolation, ResourceExhausted
from services.results.keeping import PinnedTooMuchError, ResultStore
from services.results.retention import Policy, RetentionStore
from services.results.saving import ResultKey, StoredResult
from services.results.servicer_messages import (
    audit_listing_from_proto,
    audit_to_proto,
    losses_to_proto,
    policy_from_proto,
    policy_to_proto,
    result_not_found,
    result_to_proto,
    seconds,
    usage_to_proto,
)
from services.runtime.paging import encode_page_token
from services.runtime.tenancy import current_tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRpcs:
    """What ResultsService does about retention."""

    results: ResultStore
    store: RetentionStore
    service_policy: Policy
    changed: Callable[[str], None]
    """Hears of a tenant whose limits changed."""

    async def update(self, request: pb.UpdateRetentionRequest) -> pb.UpdateRetentionResponse:
        """Give a result a TTL from now, pin it or unpin it."""
        found, kind = Violations(), request.WhichOneof("retention")
        key = ResultKey(current_tenant.get(), id_from_proto(request.result_id, "result_id", found))
        found.check(kind is not None or request.extend_only, "retention", "is required: ttl or pinned")
        found.check(kind != "pinned" or not request.extend_only, "extend_only", "goes with ttl")
        policy = await self._effective(key.tenant)
        ttl_s = seconds(request.ttl) if kind == "ttl" else policy.default_ttl_s or 0.0
        if kind == "ttl":
            policy.check_ttl(ttl_s, "ttl", found)
        found.raise_if_any()
        if kind == "pinned" and request.pinned:
            stored = await self._pin(key, policy)
        else:
            stored = await self.results.set_ttl(key, ttl_s, extend_only=request.extend_only)
        if stored is None:
            raise result_not_found(key.result_id)
        return pb.UpdateRetentionResponse(result=result_to_proto(stored))

    async def get_policy(self) -> pb.GetRetentionPolicyResponse:
        """Get the tenant's policy and what it keeps now."""
        tenant = current_tenant.get()
        policy, usage = await self._effective(tenant), await self.store.usage(tenant)
        return pb.GetRetentionPolicyResponse(policy=policy_to_proto(policy), usage=usage_to_proto(usage))

    async def set_policy(self, request: pb.SetRetentionPolicyRequest) -> pb.SetRetentionPolicyResponse:
        """Replace the tenant's policy."""
        found, tenant = Violations(), current_tenant.get()
        found.check(request.HasField("policy"), "policy", "is required; an empty one is the service's")
        policy = self._checked(request.policy, found)
        await self.store.set_policy(tenant, policy)
        self.changed(tenant)
        return pb.SetRetentionPolicyResponse(policy=policy_to_proto(policy.over(self.service_policy)))

    async def preview(self, request: pb.PreviewRetentionRequest) -> pb.PreviewRetentionResponse:
        """Tell what would go now."""
        tenant = current_tenant.get()
        asked = request.HasField("policy")
        policy = self._checked(request.policy, Violations()) if asked else await self.store.policy(tenant)
        preview = await self.store.preview(tenant, policy.over(self.service_policy))
        response = pb.PreviewRetentionResponse(
            losses=losses_to_proto(preview.taken),
            result_ids=preview.first_ids,
            kept=usage_to_proto(preview.kept),
        )
        response.read_time.FromDatetime(preview.read_time)
        return response

    async def list_audit(self, request: pb.ListRetentionAuditRequest) -> pb.ListRetentionAuditResponse:
        """List what went, newest first."""
        tenant = current_tenant.get()
        listing = audit_listing_from_proto(request, tenant)
        records = await self.store.list_audit(tenant, listing)
        response = pb.ListRetentionAuditResponse(records=map(audit_to_proto, records))
        if len(records) == listing.page_size:
            last = records[-1]
            cursor: list[str | int | float | None] = [last.delete_time.isoformat(), last.result_id]
            response.next_page_token = encode_page_token(tenant, f"audit/{request.reason}", cursor)
        return response

    async def _effective(self, tenant: str) -> Policy:
        return (await self.store.policy(tenant)).over(self.service_policy)

    def _checked(self, proto: retention_pb2.RetentionPolicy, found: Violations) -> Policy:
        policy = policy_from_proto(proto)
        policy.check(self.service_policy, found)
        found.raise_if_any()
        return policy

    async def _pin(self, key: ResultKey, policy: Policy) -> StoredResult | None:
        try:
            return await self.results.pin(key, policy)
        except PinnedTooMuchError:
            limits = f"max_results {policy.max_results}, max_bytes {policy.max_bytes}"
            quota = QuotaViolation(key.tenant, f"pinned results are beyond the retention policy: {limits}")
            raise ResourceExhausted("too much is pinned: unpin or delete results first", quota=[quota]) from None
