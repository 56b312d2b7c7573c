"""What is open to everybody: whom to phone, what Haven does with a request, and how accessible it is."""

from flask import Blueprint, Response, g, make_response, render_template

from services.gateway.pages.entrance import who_looks
from services.gateway.pages.frame import Site


def help_pages(site: Site) -> Blueprint:
    """Pages that need no sign-in: somebody who cannot sign in needs them most."""
    blueprint = Blueprint("help", __name__)

    def shown(template: str) -> Response:
        g.visit = who_looks(site)
        countries = site.reference.countries.items()
        return make_response(render_template(template, visit=g.visit, notices=[], kept={}, countries=countries))

    @blueprint.get("/help")
    def phone_numbers() -> Response:
        return shown("help.html")

    @blueprint.get("/accessibility")
    def accessibility() -> Response:
        return shown("help_accessibility.html")

    return blueprint
