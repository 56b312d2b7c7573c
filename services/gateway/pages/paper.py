"""Sheets to print before they are needed: whom to phone, an urgent request, a shelter's places. For when nothing else works."""

from flask import Blueprint, Response, make_response, render_template

from events.vocabulary import BlockReason, DeclineReason, Need, Urgency
from services.gateway.pages.frame import Site
from services.gateway.pages.requests_opening import people_labels


def paper_pages(site: Site) -> Blueprint:
    """Open to everybody. It does not look who asks, so it is there while no session can be read."""
    blueprint = Blueprint("paper", __name__)

    @blueprint.get("/help/paper")
    def sheets() -> Response:
        page = render_template(
            "help_paper.html",
            visit=None,
            notices=[],
            kept={},
            countries=site.reference.countries,
            urgencies=list(Urgency),
            people=list(people_labels().values()),
            needs=list(Need),
            declines=list(DeclineReason),
            blocks=list(BlockReason),
        )
        return make_response(page)

    return blueprint
