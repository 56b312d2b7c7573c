"""What is learnt of a household after the opening, or was said wrongly there. Pure."""

from collections.abc import Sequence
from datetime import date

from events.gateway import RecordDetails
from events.log.decider import Context
from events.placement import Details, DetailsRecorded, PlacementContract, Refusal, RelocationRequestOpened
from reference import Reference
from services.placement.domain import policies
from services.placement.domain.refusal import RefusedCommand, refuse_if
from services.placement.domain.request import Request


def reflection_end(danger_country: str, started_on: date | None, reference: Reference) -> date | None:
    """The last day of the reflection period, by the rules in force now; none without a start or a country that has rules."""
    country = reference.countries.get(danger_country)
    return country.reflection_end(started_on) if country is not None and started_on is not None else None


def record_details(request: Request, command: RecordDetails, context: Context) -> Sequence[PlacementContract]:
    assert request.opened is not None
    # First of all: whether it is so already would tell a stranger what is so.
    refuse_if(policies.may_record_details(request, context.actor))
    before = _details(request.opened)
    known = Details(
        third_country_national=command.third_country_national,
        reflection_started_on=command.reflection_started_on,
        reflection_ends_on=before.reflection_ends_on
        if command.reflection_started_on == before.reflection_started_on
        else reflection_end(request.opened.danger_country, command.reflection_started_on, context.facts.reference),
        region_of_stay=command.region_of_stay,
    )
    if known == before:
        return ()
    if command.version_seen != request.details_version:
        raise RefusedCommand(Refusal.DETAILS_CHANGED)
    if known.region_of_stay != before.region_of_stay:
        refuse_if(policies.may_move_region_of_stay(request))
    return [
        DetailsRecorded(request_id=command.request_id, version=request.details_version + 1, known=known, before=before)
    ]


def _details(opened: RelocationRequestOpened) -> Details:
    return Details(
        third_country_national=opened.third_country_national,
        reflection_started_on=opened.reflection_started_on,
        reflection_ends_on=opened.reflection_ends_on,
        region_of_stay=opened.region_of_stay,
    )
