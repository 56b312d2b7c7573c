"""What axe does not look at: targets, focus, order, spacing, zoom, motion and forced colours. Each answers with what is wrong."""

from typing import Any

_SEEN = """
const shown = element => {
    if (theirs(element)) return false;
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    return box.width > 1 && box.height > 1 && style.visibility === "visible" && style.clipPath === "none"
        && !(style.position === "absolute" && style.clip !== "auto") && element.checkVisibility();
};
const name = element => `${element.localName}#${element.id}.${element.getAttribute("class")} ${(element.textContent || "").trim().slice(0, 40)}`;
const theirs = element => element.closest(".swagger-ui");
const FOCUSABLE = "a[href], button:not([disabled]), input:not([type=hidden], [disabled]), select, textarea, summary, [tabindex='0']";
"""

_SMALL_TARGETS = (
    _SEEN
    + """
[...document.querySelectorAll(FOCUSABLE)].filter(shown).filter(element => {
    if (getComputedStyle(element).display === "inline") return false;  // in a line of text (2.5.8, inline)
    // A box and its label are one target.
    const parts = [element, ...(element.labels ?? [])].map(part => part.getBoundingClientRect());
    const size = (from, to) => Math.max(...parts.map(part => part[to])) - Math.min(...parts.map(part => part[from]));
    return size("left", "right") < 24 || size("top", "bottom") < 24;
}).map(name)
"""
)

_SPACED = """{
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`* { line-height: 1.5 !important; letter-spacing: .12em !important; word-spacing: .16em !important; }
        p { margin-bottom: 2em !important; }`);
    document.adoptedStyleSheets = [sheet];
}"""

_CUT = (
    _SEEN
    + """
[...document.querySelectorAll("body *")].filter(shown).filter(element => {
    if (element.closest("select, svg, .govuk-visually-hidden")) return false;
    const words = [...element.childNodes].filter(node => node.nodeType === Node.TEXT_NODE && node.data.trim()).flatMap(node => {
        const range = document.createRange();
        range.selectNodeContents(node);
        return [...range.getClientRects()];
    });
    let box = element;  // that of the line, where an element only is a part of one
    while (getComputedStyle(box).display.startsWith("inline") && box.parentElement) box = box.parentElement;
    const {left, right, top, bottom} = box.getBoundingClientRect();
    const {overflowX, overflowY} = getComputedStyle(box);
    if ([overflowX, overflowY].some(way => ["auto", "scroll"].includes(way))) return false;  // a reader can move it
    const clips = overflowY !== "visible";
    return words.some(rect => rect.right > right + 2 || rect.left < left - 2 || (clips && (rect.bottom > bottom + 2 || rect.top < top - 2)));
}).map(name)
"""
)

_COVERED = (
    _SEEN
    + """
[...document.querySelectorAll("body *")].filter(shown)
    .filter(element => ["fixed", "sticky"].includes(getComputedStyle(element).position))
    .filter(element => element.getBoundingClientRect().height > innerHeight / 2).map(name)
"""
)

_MOVING = """
[...document.querySelectorAll("*")].filter(element => !element.closest(".swagger-ui")).flatMap(element => [null, "::before", "::after"].map(part => getComputedStyle(element, part)))
    .flatMap(style => [...style.transitionDuration.split(","), ...style.animationDuration.split(",")])
    .filter(duration => parseFloat(duration) > 0.01)
"""

_WITHOUT_EDGE = (
    _SEEN
    + """
[...document.querySelectorAll("button, .govuk-button, input:not([type=hidden]), select, textarea")].filter(shown)
    .filter(element => ["checkbox", "radio"].includes(element.type) ? getComputedStyle(element.labels[0], "::before").borderTopWidth === "0px"
        : getComputedStyle(element).borderTopWidth === "0px" && getComputedStyle(element).outlineStyle === "none").map(name)
"""
)

_FOCUS = (
    _SEEN
    + """
(() => {
    const at = document.activeElement;
    if (!at || at === document.body || theirs(at)) return null;
    const box = at.getBoundingClientRect(), style = getComputedStyle(at);
    // Of a box and of a radio button the mark is drawn beside the input.
    const marks = [style, ...[...(at.labels ?? [])].map(label => getComputedStyle(label, "::before"))];
    const marked = marks.some(mark => (mark.outlineStyle !== "none" && parseFloat(mark.outlineWidth) >= 2) || mark.boxShadow !== "none");
    // Of a tile of the map its edge is.
    const edged = [...at.querySelectorAll("rect")].some(rect => parseFloat(getComputedStyle(rect).strokeWidth) >= 3);
    const places = [[.5, .5], [.1, .5], [.9, .5], [.5, .1], [.5, .9]]
        .map(([x, y]) => document.elementFromPoint(box.left + box.width * x, box.top + box.height * y));
    const reached = places.some(found => found && (at.contains(found) || [...(at.labels ?? [])].some(label => label.contains(found))));
    const all = [...document.querySelectorAll(FOCUSABLE)];
    return {name: name(at), marked: marked || edged, reached, place: all.indexOf(at), top: Math.round(box.top + scrollY), inMain: !!at.closest("main"),
        parts: ["date", "time", "datetime-local"].includes(at.type)};
})()
"""
)


def small_targets(page: Any) -> list[str]:
    """What is smaller than 24 by 24 px and not in a line of text (WCAG 2.5.8)."""
    return list(page.evaluate(_SMALL_TARGETS))


def cut_when_spaced(page: Any) -> list[str]:
    """Text that is cut or sticks out when a reader spaces it (WCAG 1.4.12) on the narrowest screen."""
    page.set_viewport_size({"width": 320, "height": 850})
    page.evaluate(_SPACED)
    cut = list(page.evaluate(_CUT))
    if (more := page.evaluate("document.documentElement.scrollWidth - innerWidth")) > 0:
        cut.append(f"the page is {more} px too wide")
    page.evaluate("document.adoptedStyleSheets = []")
    page.set_viewport_size({"width": 390, "height": 850})
    return cut


def lost_at_four_times(page: Any) -> list[str]:
    """What a desk's screen at 400 % (WCAG 1.4.10: 320 by 256 px) cuts, or covers with what never scrolls away."""
    page.set_viewport_size({"width": 320, "height": 256})
    lost = [*page.evaluate(_CUT), *page.evaluate(_COVERED)]
    page.set_viewport_size({"width": 390, "height": 850})
    return lost


def moves(page: Any) -> list[str]:
    """What moves although the reader asked for less motion."""
    page.emulate_media(reduced_motion="reduce")
    moving = list(page.evaluate(_MOVING))
    page.emulate_media(reduced_motion="no-preference")
    return moving


def without_edge(page: Any) -> list[str]:
    """What cannot be told from the page when the system takes the colours of backgrounds away."""
    page.emulate_media(forced_colors="active")
    edgeless = list(page.evaluate(_WITHOUT_EDGE))
    page.emulate_media(forced_colors="none")
    return edgeless


def wrong_on_the_way(page: Any) -> list[str]:
    """Goes through the page with Tab: every stop is marked and not covered, in the order in which it is written and read."""
    wrong: list[str] = []
    page.evaluate("scrollTo(0, 0); document.activeElement?.blur()")
    stops: list[Any] = []
    for _ in range(400):
        page.keyboard.press("Tab")
        stop = page.evaluate(_FOCUS)
        if stop is None or (stops and stop["place"] <= stops[0]["place"]):
            break
        if stop["parts"] and stops and stop["place"] == stops[-1]["place"]:
            continue  # day, month and year of one field, which the browser marks itself
        if not stop["marked"]:
            wrong.append(f"no mark of the focus: {stop['name']}")
        if not stop["reached"]:
            wrong.append(f"covered or out of sight: {stop['name']}")
        if stops and stop["place"] <= stops[-1]["place"]:
            wrong.append(f"before what is written earlier: {stop['name']}")
        # One column: what comes later is further down. What stands beside something else may be a little higher.
        if stops and stop["inMain"] and stops[-1]["inMain"] and stop["top"] < stops[-1]["top"] - 60:
            wrong.append(f"above what was before it: {stop['name']}")
        stops.append(stop)
    if len(stops) < 3:
        wrong.append("there is nothing to go to")
    return wrong


def everything_wrong(page: Any) -> dict[str, list[str]]:
    """By the name of the check."""
    checks = (small_targets, cut_when_spaced, lost_at_four_times, moves, without_edge, wrong_on_the_way)
    return {check.__name__: wrong for check in checks if (wrong := check(page))}
