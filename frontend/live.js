// Pages that live: what moved is heard on a stream of ids, and the page says how far it can be trusted: live, reconnecting, not
// updated since, paused. Where `#standing` waits for it, it is fetched again; elsewhere the page says that it has changed, and
// moves nothing under anybody's finger. Without this script a page says when it was made, and has a link to load it again.
(() => {
  const START = 5_000; // so long a line may be gone before it is worth a word
  const SILENCE = 40_000; // two heartbeats and a half
  const LOST = 30_000;
  const SPOKEN = 30_000;
  const APART = 2_000; // between two fetches; what moves meanwhile is in the next

  const root = document.documentElement;
  const loaded = Date.now();
  const served = Date.parse(root.dataset.now);
  const speed = Number(root.dataset.speed) || 1;
  const serverTime = (at) => served + (at - loaded) * speed;
  const clock = new Intl.DateTimeFormat("en-GB", { timeZone: "Europe/Brussels", hour: "2-digit", minute: "2-digit" });

  const start = () => {
    const box = document.getElementById("live");
    if (!box) return;
    const words = box.dataset;
    const [state, said, button, changed] = ["state", "said", "pause", "changed"].map((name) => box.querySelector(`[data-live-${name}]`));
    const shown = new Map(Object.entries(JSON.parse(words.shown || "{}")));
    const standing = () => document.getElementById("standing")?.dataset ?? {};
    const swaps = document.getElementById("standing") !== null;
    // Some of it changes by time alone: the server says in how many of its seconds. Counted from when it came, so that a clock that
    // is wrong, or is put right meanwhile, asks once too early at most.
    const ends = (from) => from + (Number(standing().standsFor) * 1000) / speed;

    let source;
    let last = words.after;
    let heard = loaded; // the last proof that nothing was missed
    let opened = false;
    let lost = loaded; // since when nothing is heard
    let tries = 0;
    let retry;
    let paused = false;
    let behind = 0; // since when something has moved that is not shown yet
    let asked = 0;
    let waits = false; // for the answer to what was asked last
    let again = false; // something moved while it waited, and may not be in that answer
    let due;
    let until = ends(loaded); // what is shown stands so long by itself; NaN: for ever
    let spokenAt = 0;

    const ask = () => {
      due = undefined;
      again = waits && Date.now() - asked < LOST / 3;
      if (again) return;
      waits = true;
      asked = Date.now();
      box.dispatchEvent(new CustomEvent("moved"));
    };

    // Whatever moves is followed by a fetch that begins after it: one that was let go would leave a board that stands still.
    const refresh = () => {
      behind ||= Date.now();
      due ??= setTimeout(ask, Math.max(0, asked + APART - Date.now()));
    };

    const moved = (event) => {
      proof();
      if (event.lastEventId) last = event.lastEventId;
      if (swaps) return refresh();
      const { kind, id, revision } = JSON.parse(event.data);
      const known = shown.get(id);
      // Without an id: the session has ended.
      const concerns = id === undefined || (known === undefined ? words.kinds?.split(" ").includes(kind) : revision > known);
      if (concerns && changed) changed.hidden = false;
      tell();
    };

    const proof = () => {
      heard = Date.now();
      lost = 0;
      tries = 0;
    };

    const close = () => {
      clearTimeout(retry);
      source?.close();
      opened = false;
      lost ||= Date.now();
    };

    const open = () => {
      close();
      source = new EventSource(`/live?after=${encodeURIComponent(last)}`);
      source.addEventListener("open", () => {
        opened = true;
        proof();
        document.dispatchEvent(new CustomEvent("line"));
        tell();
      });
      source.addEventListener("beat", (event) => {
        proof();
        // What no change tells of: who is rung, what is set aside.
        const { unheard } = JSON.parse(event.data);
        if (unheard && standing().unheard && unheard !== standing().unheard) refresh();
      });
      source.addEventListener("moved", moved);
      source.addEventListener("error", () => {
        opened = false;
        lost ||= Date.now();
        // The browser tries again by itself, unless it was told to stay away: too many streams, or nobody is signed in.
        if (source.readyState === EventSource.CLOSED) retry = setTimeout(open, Math.min(60_000, 2_000 * 2 ** tries++));
        tell();
      });
    };

    const condition = () => {
      const now = Date.now();
      if (paused) return "paused";
      if (behind && now - behind > LOST / 3) return "stale";
      if (opened && now - heard < SILENCE) return "live";
      if (lost && now - lost < START) return "live";
      return lost && now - lost < LOST ? "again" : "stale";
    };

    const tell = () => {
      const now = condition();
      const at = clock.format(serverTime(behind && !paused ? behind : heard));
      const text = words[now].replace("{time}", at);
      if (state.textContent !== text) state.textContent = text;
      box.dataset.condition = now;
      const loud = changed && !changed.hidden ? `${text}. ${changed.textContent.trim()}` : text;
      if (loud !== said.textContent && Date.now() - spokenAt >= SPOKEN) {
        if (spokenAt || now !== "live") said.textContent = loud;
        spokenAt = Date.now();
      }
    };

    const tick = () => {
      const now = Date.now();
      if (!paused && opened && now - heard >= SILENCE) open(); // a line that is there and says nothing
      if (!paused && now >= until) {
        until = NaN;
        refresh();
      }
      if (!paused && behind && now - asked > LOST / 3) refresh();
      tell();
    };

    button.addEventListener("click", () => {
      paused = !paused;
      button.textContent = paused ? words.goOn : words.pauseIt;
      if (paused) {
        clearTimeout(due);
        due = undefined;
        close();
      } else {
        open();
        if (behind) refresh();
      }
      tell();
    });
    document.addEventListener("htmx:after:swap", () => {
      until = ends(Date.now());
      waits = false;
      behind = again || due !== undefined ? Date.now() : 0;
      heard = Date.now();
      if (again) refresh();
      tell();
    });
    // A browser opens six lines to a site; a page that only says that it changed needs none while nobody sees it.
    document.addEventListener("visibilitychange", () => {
      if (swaps || paused) return;
      if (document.hidden) close();
      else open();
    });
    addEventListener("online", () => !paused && open());
    addEventListener("pagehide", close);
    addEventListener("pageshow", (event) => event.persisted && !paused && open());

    box.hidden = false;
    open();
    tell();
    setInterval(tick, 1_000);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
