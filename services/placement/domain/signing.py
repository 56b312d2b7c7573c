"""Consent, the two signatures and the confirmation that only a firm hold gives. Pure."""

import hashlib
from collections.abc import Sequence

import msgspec

from events.gateway import (
    CountersignPlacement,
    ProposePlacement,
    RecordConsent,
)
from events.log.decider import Context
from events.placement import (
    AskClosed,
    ConsentRecorded,
    ConsentWithdrawn,
    CountersignatureRefused,
    PlacementConfirmed,
    PlacementContract,
    PlacementCountersigned,
    PlacementProposed,
    Proposal,
    ProposalLapse,
    ProposalLapsed,
    Refusal,
)
from events.vocabulary import ConsentScope, Stage
from services.placement.domain import policies
from services.placement.domain.matching import RULESET
from services.placement.domain.refusal import RefusedCommand, refusal_of, refuse_if
from services.placement.domain.request import Ask, AskStage, Request, consent_key


def proposal_hash(proposal: Proposal) -> str:
    """SHA-256 of the canonical JSON of exactly what is signed."""
    return hashlib.sha256(msgspec.json.encode(proposal)).hexdigest()


def record_consent(request: Request, command: RecordConsent, context: Context) -> Sequence[PlacementContract]:
    if request.over:
        raise RefusedCommand(Refusal.WRONG_STAGE)
    refuse_if(policies.may_record_consent(request, context.actor, command.by))
    key = consent_key(command.scope, command.country, command.by)
    if request.consents.get(key) is command.given:
        return ()
    version = request.consent_version + 1
    if command.given:
        return [
            ConsentRecorded(
                request_id=command.request_id,
                scope=command.scope,
                country=command.country,
                by=command.by,
                version=version,
            )
        ]
    withdrawn = ConsentWithdrawn(
        request_id=command.request_id, scope=command.scope, country=command.country, by=command.by, version=version
    )
    about_the_host = request.proposal is not None and request.proposal.host_country == command.country
    if command.scope is ConsentScope.PLACEMENT and about_the_host and request.stage in policies.BEFORE_DEPARTURE:
        return [withdrawn, *lapse_proposal(request, ProposalLapse.CONSENT_WITHDRAWN)]
    return [withdrawn]


def propose(request: Request, command: ProposePlacement, context: Context) -> Sequence[PlacementContract]:
    assert request.opened is not None
    refuse_if(policies.may_propose(request, context.actor))
    ask = request.asks.get(command.ask_id)
    if ask is None:
        raise RefusedCommand(Refusal.UNKNOWN_ASK)
    if request.proposal is not None and request.proposal.ask_id == ask.ask_id and _is_same_signer(request, context):
        return ()
    if not request.searching:
        raise RefusedCommand(Refusal.WRONG_STAGE)
    if ask.stage is not AskStage.ACCEPTED:
        raise RefusedCommand(Refusal.NOT_OFFERED)
    rank = _rank_among_offers(request, ask)
    if rank > 1 and command.override is None:
        raise RefusedCommand(Refusal.OVERRIDE_NEEDS_REASON)
    proposal = Proposal(
        request_id=command.request_id,
        ask_id=ask.ask_id,
        hold_id=ask.hold_id,
        unit_id=ask.unit_id,
        shelter_id=ask.shelter_id,
        host_country=ask.country,
        household=request.opened.household,
        needs=request.opened.needs,
        condition=ask.condition,
        consent_version=request.consent_version,
        ruleset=RULESET,
        rank=rank,
        override=command.override,
    )
    return [PlacementProposed(request_id=command.request_id, proposal=proposal, proposal_hash=proposal_hash(proposal))]


def _is_same_signer(request: Request, context: Context) -> bool:
    return request.proposer is not None and request.proposer.person == context.actor.person


def _rank_among_offers(request: Request, ask: Ask) -> int:
    order = {c.unit_id: n for n, c in enumerate(request.shortlist.candidates)} if request.shortlist else {}
    last = len(order)
    mine = order.get(ask.unit_id, last)
    return 1 + sum(order.get(other.unit_id, last) < mine for other in request.offers())


def countersign(request: Request, command: CountersignPlacement, context: Context) -> Sequence[PlacementContract]:
    if request.countersigner is not None and command.refusal is None and command.proposal == request.proposal_hash:
        if request.countersigner.person == context.actor.person:
            return ()
        raise RefusedCommand(Refusal.WRONG_STAGE)
    if request.proposal is None or request.stage is not Stage.PROPOSED:
        # A signature that comes as the proposal lapses binds to something that is gone: say that it changed.
        known = request.proposal is not None or bool(request.asks)
        raise RefusedCommand(Refusal.PROPOSAL_CHANGED if known and request.searching else Refusal.WRONG_STAGE)
    refuse_if(policies.may_countersign(request, context.actor))
    if command.proposal != request.proposal_hash:
        raise RefusedCommand(Refusal.PROPOSAL_CHANGED)
    if command.refusal is not None:
        return [
            CountersignatureRefused(
                request_id=command.request_id, proposal_hash=request.proposal_hash, reason=command.refusal
            ),
            *lapse_proposal(request, ProposalLapse.REFUSED_BY_HOST),
        ]
    if request.proposal.ruleset != RULESET:
        # Made under rules that no longer hold: nobody is bound by it, and the search goes on under the new ones.
        refusal = refusal_of(request, command, context, Refusal.PROPOSAL_CHANGED)
        return [refusal, *lapse_proposal(request, ProposalLapse.RULES_CHANGED)]
    return [PlacementCountersigned(request_id=command.request_id, proposal_hash=request.proposal_hash)]


def lapse_proposal(request: Request, reason: ProposalLapse) -> Sequence[PlacementContract]:
    """The proposal, if there is one, binds nobody any more; the yes it was built on is closed with it."""
    if request.proposal is None:
        return []
    signers = [request.proposer, request.countersigner]
    return [
        ProposalLapsed(
            request_id=request.proposal.request_id,
            proposal_hash=request.proposal_hash,
            reason=reason,
            signers=tuple(signer.person for signer in signers if signer is not None),
        ),
        AskClosed(request_id=request.proposal.request_id, ask_id=request.proposal.ask_id),
    ]


def confirm(request: Request, hold_id: str) -> Sequence[PlacementContract]:
    proposal = request.proposal
    if proposal is None or proposal.hold_id != hold_id or request.stage is not Stage.CONSENTED:
        return ()
    return [
        PlacementConfirmed(
            request_id=proposal.request_id,
            proposal_hash=request.proposal_hash,
            unit_id=proposal.unit_id,
            shelter_id=proposal.shelter_id,
            hold_id=proposal.hold_id,
            host_country=proposal.host_country,
        )
    ]
