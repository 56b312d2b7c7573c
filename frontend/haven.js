// On every page, in <head>, before anything is shown. No page needs it: without it the exit control is a form that is posted,
// a clock is the time of day beside it, and the error summary is read where it stands.
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // What may be kept here for when the line is down: static files, and numbers not sent yet, which nobody else can read. The worker
  // outlives the page; a page that has none says it to the browser itself. The server says it too, if it can be reached.
  let registered; // a page that was on its way when its worker woke up is in nobody's hands
  const forget = () => {
    (navigator.serviceWorker?.controller ?? registered?.active)?.postMessage("forget");
    globalThis.indexedDB?.deleteDatabase("kept");
  };

  // Leaving. The page is emptied first: whoever comes in must not read it while the network is slow. The request that ends the
  // session outlives the page, and `replace` leaves nothing that Back would return to.
  let left = false;
  const leave = (form) => {
    if (left) return;
    left = true;
    forget();
    const action = form.getAttribute("action"); // form.action would be a field of that name, if there were one
    const away = form.querySelector("[data-exit-to]");
    const body = new URLSearchParams(new FormData(form));
    const words = document.createElement("p");
    words.className = "govuk-visually-hidden";
    words.setAttribute("role", "alert");
    words.textContent = form.dataset.leaving ?? "";
    root.classList.add("haven-left");
    document.body.replaceChildren(words);
    // Another origin may not be asked from here, so the answer's redirect is not followed.
    fetch(action, { method: "POST", body, keepalive: true, redirect: "manual" }).catch(() => {});
    location.replace(away?.dataset.exitTo || "about:blank");
  };

  // Some browsers keep a page in their memory as it stood, whatever its headers say, and Back shows it before anybody is asked. It is
  // put away unseen, and asked for anew.
  addEventListener("pagehide", (event) => {
    if (event.persisted && document.querySelector("form.haven-exit")) root.classList.add("haven-away");
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted && root.classList.contains("haven-away")) location.reload();
  });

  document.addEventListener("submit", (event) => {
    if (event.target.matches("form[action='/sign-out']")) forget();
    if (!event.target.matches("form.haven-exit")) return;
    event.preventDefault();
    leave(event.target);
  });

  // Shift three times, each within five seconds of the last and alone: capital letters and Shift with a click do not count.
  // Not Esc, which stops the very loading that leaving starts.
  let presses = 0;
  let withShift = false;
  let forgetting;
  const count = (number) => {
    clearTimeout(forgetting);
    const form = document.querySelector("form.haven-exit");
    const status = form?.querySelector("[role=status]");
    if (status && number !== presses) status.textContent = ["", form.dataset.pressTwo, form.dataset.pressOne][number] ?? "";
    presses = number;
    if (number === 3 && form) leave(form);
    else if (number) forgetting = setTimeout(count, 5000, 0);
  };
  document.addEventListener("keyup", (event) => {
    count(event.key === "Shift" && !withShift ? presses + 1 : 0);
    withShift = event.shiftKey;
  });
  document.addEventListener("pointerdown", (event) => {
    count(0);
    withShift = event.shiftKey;
  });

  // Clocks. They run on the server's time, as the page names it: a phone's own may be wrong, and an exercise's runs faster.
  const loaded = Date.now();
  const served = Date.parse(root.dataset.now);
  const now = () => (served ? served + (Date.now() - loaded) * (Number(root.dataset.speed) || 1) : Date.now());
  const digits = (number) => String(number).padStart(2, "0");
  const tick = () => {
    for (const clock of document.querySelectorAll("time[data-clock]")) {
      const remaining = Math.round((Date.parse(clock.dateTime) - now()) / 1000);
      if (Number.isNaN(remaining)) continue;
      const seconds = Math.abs(remaining);
      const hours = Math.floor(seconds / 3600);
      const minutes = Math.floor(seconds / 60) % 60;
      const length = `${hours ? `${hours}:${digits(minutes)}` : minutes}:${digits(seconds % 60)}`;
      const text = remaining < 0 ? `${clock.dataset.past ?? "−"} ${length}` : length;
      const state = remaining < 0 ? "past" : remaining <= Number(clock.dataset.soon ?? 300) ? "soon" : "running";
      if (clock.textContent !== text) clock.textContent = text;
      if (clock.dataset.state !== state) clock.dataset.state = state;
    }
  };

  // The error summary takes the focus once, also when it was swapped in; its links lead into the field, with its question in view.
  const announced = new WeakSet();
  const announce = () => {
    const summary = document.querySelector(".govuk-error-summary");
    if (!summary || announced.has(summary)) return;
    announced.add(summary);
    summary.tabIndex = -1;
    summary.focus();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.(".govuk-error-summary a[href^='#']");
    const field = link && document.getElementById(link.hash.slice(1));
    if (!field) return;
    event.preventDefault();
    const choice = field.type === "radio" || field.type === "checkbox";
    const question = (choice && field.closest("fieldset")?.querySelector("legend")) || field.labels?.[0] || field;
    question.scrollIntoView();
    field.focus({ preventScroll: true });
  });

  // The worker that shows a page when the line is down, for whoever is signed in. Its address is one of ours and no other.
  const work = () => {
    const workers = navigator.serviceWorker;
    if (!workers || !root.dataset.worker) return;
    const address = `/worker.${encodeURIComponent(root.lang)}.js`;
    const policy = globalThis.trustedTypes?.createPolicy("haven", { createScriptURL: () => address });
    workers.register(policy?.createScriptURL("") ?? address).then(
      (registration) => (registered = registration),
      () => {}, // no worker: no page without a line, and no harm
    );
  };

  // The page without a line tries again by itself.
  const tryAgain = () => {
    addEventListener("online", () => location.reload());
    setInterval(() => fetch("/healthz", { cache: "no-store" }).then((answer) => answer.ok && location.reload(), () => {}), 15_000);
  };

  const start = () => {
    announce();
    tick();
    setInterval(tick, 1000);
    if (document.querySelector("[data-offline]")) tryAgain();
    addEventListener("load", work);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
  document.addEventListener("htmx:after:swap", () => {
    announce();
    tick();
  });
})();
