// The worker: it keeps static files and one page that says the line is down, and nothing else, ever. `SHELL` comes before this
// file: a name made of the digests of everything in it, the files, and that page (services/gateway/pages/offline.py).
const keep = async (address) => {
  const answer = await fetch(address, { credentials: "omit" });
  const rule = answer.headers.get("Cache-Control") ?? "no-store";
  // Without cookies nobody is known, so nothing can be about anybody. What says that it must not be kept is not.
  if (!answer.ok || answer.redirected || /no-store|private/.test(rule)) throw new Error(`not to be kept: ${address}`);
  await (await caches.open(SHELL.name)).put(address, answer);
};

const found = (asked) => caches.match(asked, { cacheName: SHELL.name }); // opening it would make it again after it was forgotten

const forgetAll = async () => {
  for (const name of await caches.keys()) await caches.delete(name);
  indexedDB.deleteDatabase("kept");
};

addEventListener("install", (event) => {
  // At once: an address in it changes when its file does, so no page can meet the files of another release.
  event.waitUntil(Promise.all([...SHELL.files, SHELL.offline].map(keep)).then(() => skipWaiting()));
});

addEventListener("activate", (event) => {
  const dropOthers = async () => {
    for (const name of await caches.keys()) if (name !== SHELL.name) await caches.delete(name);
    await registration.navigationPreload?.enable();
    await clients.claim();
  };
  event.waitUntil(dropOthers());
});

addEventListener("message", (event) => {
  if (event.data === "forget") event.waitUntil(forgetAll().then(() => registration.unregister()));
});

// A page is asked for by the browser, not by us: what a worker fetches counts as asked for by this site, and the cookie, which is
// for this site alone, would go along with a link or form of another. So a browser that cannot preload has no page for when the
// line is down, and a form that is sent never comes by here.
const page = async (event) => {
  try {
    const answer = await event.preloadResponse;
    if (answer) return answer;
  } catch {
    const offline = await found(SHELL.offline);
    if (offline) return offline;
  }
  return Response.error();
};

const file = async (request) => (await found(request)) ?? fetch(request);

addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== location.origin) return;
  if (request.mode === "navigate" && registration.navigationPreload) event.respondWith(page(event));
  else if (pathname.startsWith("/static/")) event.respondWith(file(request));
});
