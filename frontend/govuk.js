// For pages with a component whose look changes once its script runs. Each of those in `haven.scss` has to be here.
import { Checkboxes } from "govuk-frontend/dist/govuk/components/checkboxes/checkboxes.mjs";
import { NotificationBanner } from "govuk-frontend/dist/govuk/components/notification-banner/notification-banner.mjs";
import { Radios } from "govuk-frontend/dist/govuk/components/radios/radios.mjs";

class RadiosAsAriaHasThem extends Radios {
  syncConditionalRevealWithInputState(input) {
    super.syncConditionalRevealWithInputState(input);
    input.removeAttribute("aria-expanded"); // a radio has no such state, and axe says so; what is revealed comes next anyway
  }
}

const components = [Checkboxes, NotificationBanner, RadiosAsAriaHasThem];

const start = () => {
  document.body.classList.add("govuk-frontend-supported");
  for (const Component of components) {
    const name = Component.moduleName;
    for (const element of document.querySelectorAll(`[data-module="${name}"]:not([data-${name}-init])`)) {
      try {
        new Component(element);
      } catch (error) {
        console.error(error); // one broken component must not take the others with it
      }
    }
  }
};

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
document.addEventListener("htmx:after:swap", start);
