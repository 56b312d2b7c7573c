"""What is open to everybody: whom to phone, what each role does, what Haven does with a request, and how accessible it is."""

from flask import Blueprint, Response, current_app, g, make_response, render_template

from services.gateway.pages.entrance import who_looks
from services.gateway.pages.frame import EVERYBODY, Site


def help_pages(site: Site) -> Blueprint:
    """Pages that need no sign-in: somebody who cannot sign in needs them most."""
    blueprint = Blueprint("help", __name__)

    def shown(template: str, **context: object) -> Response:
        g.visit = who_looks(site)
        return make_response(render_template(template, visit=g.visit, notices=[], kept={}, **context))

    @blueprint.get("/help")
    def phone_numbers() -> Response:
        countries = site.reference.countries.items()
        return shown("help.html", countries=countries, roles=EVERYBODY, is_ready=_is_ready())

    @blueprint.get("/accessibility")
    def accessibility() -> Response:
        return shown("help_accessibility.html")

    return blueprint


def _is_ready() -> bool:
    """Whether what is sent now is taken as it should be: what /readyz tells everybody, without its reasons."""
    with current_app.test_request_context("/readyz"):
        return current_app.full_dispatch_request().status_code == 200
