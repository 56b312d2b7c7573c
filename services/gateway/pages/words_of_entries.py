"""What one entry of the trail says beside its sentence: reasons, places, moments, and who was told what."""

from collections.abc import Mapping

from events import capacity as c
from events import gateway as g
from events import placement as p
from events.envelope import wire_name
from services.gateway.pages.language import country_name, gettext, moment, ngettext
from services.gateway.pages.words import named, word
from services.gateway.pages.words_of_cases import detail_labels, detail_words
from services.gateway.read_model import Json

_REASONS: Mapping[str, str] = {
    wire_name(contract): table
    for contract, table in (
        (g.WithdrawRequest, "WithdrawalReason"),
        (g.EndPlacement, "EndingReason"),
        (g.RequestDisclosure, "DisclosureReason"),
        (g.FieldDisclosed, "DisclosureReason"),
        (p.RelocationRequestRefused, "OpeningRefusal"),
        (p.AskDeclined, "DeclineReason"),
        (p.CountersignatureRefused, "SignatureRefusal"),
        (p.ProposalLapsed, "ProposalLapse"),
        (p.PlacementEnded, "EndingReason"),
        (p.RequestWithdrawn, "WithdrawalReason"),
        (p.DisclosureGranted, "DisclosureReason"),
        (p.CommandRefused, "Refusal"),
        (c.ReportRefused, "ReportRefusal"),
        (c.HoldRefused, "HoldRefusal"),
        (c.FirmHoldRefused, "FirmRefusal"),
    )
}
"""What the reason in an event is a code of."""

_CODES = (
    ("resource", "Resource"),
    ("command", "EventType"),
    ("urgency", "Urgency"),
    ("stage", "Stage"),
    ("step", "Step"),
    ("scope", "ConsentScope"),
    ("by", "ConsentBy"),
    ("field", "SealedField"),
    ("outcome", "ArrivalOutcome"),
    ("condition", "AcceptCondition"),
    ("decline", "DeclineReason"),
    ("override", "OverrideReason"),
    ("refusal", "SignatureRefusal"),
    ("freshness", "Freshness"),
    ("blocked_because", "BlockReason"),
    ("purpose", "ReadPurpose"),
)
_SHELTER_ASKED = wire_name(p.ShelterAsked)
_OPENED = frozenset({wire_name(g.FieldDisclosed), wire_name(p.DisclosureGranted)})


def facts_of(entry: Json) -> list[str]:
    """What the event says in codes, ids and moments, in the language of the page; nothing that the entry does not hold."""
    detail = entry["detail"]
    proposal = detail.get("proposal")
    held = {**(proposal if isinstance(proposal, dict) else {}), **detail}
    said = [word(table, held[name]).rstrip(".") for name, table in _CODES if isinstance(held.get(name), str)]
    table = _REASONS.get(entry["type"])
    if table and isinstance(held.get("reason"), str):
        said.append(word(table, held["reason"]))
    if isinstance(held.get("given"), bool):
        said.append(gettext("Yes") if held["given"] else gettext("No"))
    said += [country_name(held[name]) for name in ("country", "host_country") if isinstance(held.get(name), str)]
    if isinstance(held.get("shelter_id"), str):
        said.append(gettext("shelter %(shelter)s", shelter=held["shelter_id"]))
    if isinstance(held.get("recipient"), str):
        said.append(gettext("for %(person)s", person=held["recipient"]))
    if len(subjects := held.get("subjects") or ()) > 1:
        said.append(ngettext("%(num)s case", "%(num)s cases", len(subjects)))
    said += _narrowed_to(held.get("narrowed_to") or {})
    said += [
        gettext("until %(moment)s", moment=moment(held[name]))
        for name in ("deadline", "until", "expires_at")
        if isinstance(held.get(name), str)
    ]
    if isinstance(held.get("arrival_due"), str):
        said.append(gettext("to arrive by %(moment)s", moment=moment(held["arrival_due"])))
    return [*said, *_learnt(detail)]


def _learnt(detail: Json) -> list[str]:
    """What an event about the household's details changed, as far as whoever reads it is shown it: from what to what."""
    known, before = detail.get("known"), detail.get("before")
    if not (isinstance(known, dict) and isinstance(before, dict)):
        return []
    return [
        gettext(
            "%(what)s: %(now)s (before: %(before)s)",
            what=label,
            now=detail_words(known[name]),
            before=detail_words(before.get(name)),
        )
        for name, label in detail_labels().items()
        if name in known and known[name] != before.get(name)
    ]


def told_by(entry: Json) -> Json | None:
    """Of an entry by which somebody learned something: who, what kind of thing, why and until when. Never the thing itself."""
    detail = entry["detail"]
    if entry["type"] == _SHELTER_ASKED:
        return {
            "who": gettext("shelter %(shelter)s", shelter=detail["shelter_id"]),
            "what": gettext("Who moves together, what they need and which languages they speak"),
            "why": gettext("To say whether it can take them in"),
            "until": moment(detail["deadline"]),
        }
    if entry["type"] in _OPENED:
        return {
            "who": detail["recipient"],
            "what": word("SealedField", detail["field"]),
            "why": word("DisclosureReason", detail["reason"]),
            "until": moment(detail["expires_at"]),
        }
    return None


def _narrowed_to(query: Json) -> list[str]:
    """What of the trail was read: the filters that were used."""
    filters = (
        ("case_id", gettext("Case")),
        ("person", gettext("Person")),
        ("organisation", gettext("Organisation")),
    )
    said = [f"{named(name)} {query[key]}" for key, name in filters if query.get(key)]
    if verb := query.get("verb"):
        said.append(word("Verb", verb))
    if since := query.get("since"):
        said.append(gettext("from %(moment)s", moment=moment(since)))
    if until := query.get("until"):
        said.append(gettext("until %(moment)s", moment=moment(until)))
    return said
