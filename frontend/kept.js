// Numbers of free beds that could not be sent: kept, and sent once the line is back. What is sent says everything itself (absolute
// numbers, the revision that was seen, the id of the command), so sending it twice changes nothing. What is kept is sealed with a
// key that only this person's own pages carry, for an hour; the exit and the sign-out forget it. Without this script a form is a form.
(() => {
  const LIFE = 3_600_000;
  const PATIENCE = 8_000;
  const AGAIN = 10_000;

  const start = () => {
    const box = document.getElementById("kept");
    if (!box?.dataset.key || !globalThis.crypto?.subtle || !globalThis.indexedDB) return;
    const words = box.dataset;
    const bytes = Uint8Array.from(atob(words.key.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
    const key = crypto.subtle.importKey("raw", bytes, "AES-GCM", false, ["encrypt", "decrypt"]);
    const entries = new Map(); // by unit: the newest word about it
    const busy = new Set();

    // Where they are kept

    const within = async (mode, act) => {
      const database = await new Promise((resolve, reject) => {
        const asked = indexedDB.open("kept", 1);
        asked.onupgradeneeded = () => asked.result.createObjectStore("entries", { keyPath: "id" });
        asked.onsuccess = () => resolve(asked.result);
        asked.onerror = () => reject(asked.error);
      });
      database.onversionchange = () => database.close(); // whoever leaves deletes it, and must not wait
      try {
        return await new Promise((resolve, reject) => {
          const transaction = database.transaction("entries", mode);
          const asked = act(transaction.objectStore("entries"));
          transaction.oncomplete = () => resolve(asked.result);
          transaction.onabort = () => reject(transaction.error);
        });
      } finally {
        database.close();
      }
    };
    const algorithm = ({ iv, id, at }) => ({ name: "AES-GCM", iv, additionalData: new TextEncoder().encode(`${id} ${at}`) });
    const put = async ({ id, at, unit, what, fields }) => {
      const record = { id, at, iv: crypto.getRandomValues(new Uint8Array(12)) };
      const said = new TextEncoder().encode(JSON.stringify({ unit, what, fields }));
      record.sealed = await crypto.subtle.encrypt(algorithm(record), await key, said);
      await within("readwrite", (store) => store.put(record));
    };
    const drop = async (entry) => {
      if (entries.get(entry.unit) === entry) entries.delete(entry.unit);
      await within("readwrite", (store) => store.delete(entry.id)).catch(() => {});
    };
    const isOver = ({ at }) => Math.abs(Date.now() - at) > LIFE; // also if the phone's clock was set back
    const find = async () => {
      const records = await within("readonly", (store) => store.getAll());
      for (const record of records.sort((one, other) => one.at - other.at)) {
        if (isOver(record)) {
          await within("readwrite", (store) => store.delete(record.id));
          continue;
        }
        try {
          const said = new TextDecoder().decode(await crypto.subtle.decrypt(algorithm(record), await key, record.sealed));
          await newest({ ...record, ...JSON.parse(said), state: "asks" });
        } catch {
          // Somebody else's: not for this page to know.
        }
      }
    };
    const newest = async (entry) => {
      const before = entries.get(entry.unit);
      if (before) await drop(before);
      entries.set(entry.unit, entry);
    };

    // What is said of them

    const element = (name, className, text = "") => {
      const one = document.createElement(name);
      one.className = className;
      one.textContent = text;
      return one;
    };
    const button = (text, act) => {
      const one = element("button", "govuk-button govuk-button--secondary", text);
      one.type = "button";
      one.addEventListener("click", act);
      return one;
    };
    const show = (...more) => {
      const said = [...entries.values()].map((entry) => {
        const part = element("div", "govuk-inset-text");
        part.append(element("p", "govuk-body", words[entry.state].replace("{what}", entry.what)));
        if (entry.state === "away") {
          const link = element("a", "govuk-link", words.signIn);
          link.href = "/places";
          part.append(link);
        } else if (entry.state === "asks" || entry.state === "differs") {
          const group = element("div", "govuk-button-group");
          group.append(
            button(entry.state === "asks" ? words.sendNow : words.compare, () => (entry.state === "asks" ? attempt(entry, true) : natively(entry))),
            button(words.forget, () => drop(entry).then(() => show())),
          );
          part.append(group);
        }
        return part;
      });
      box.replaceChildren(...more.map((text) => element("p", "govuk-inset-text", text)), ...said);
    };

    // How they are sent

    const token = () => document.querySelector("input[name=csrf]").value;
    const send = async (entry) => {
      const body = new URLSearchParams([...entry.fields, ["csrf", token()], ["reply", "short"]]);
      try {
        const answer = await fetch("/places", { method: "POST", body, redirect: "manual", signal: AbortSignal.timeout(PATIENCE) });
        if (answer.status >= 500) return { outcome: "line" };
        // Led away to sign in, or the page is of an earlier session: never as somebody else.
        if (answer.type === "opaqueredirect" || !answer.ok) return { outcome: "away" };
        return await answer.json();
      } catch {
        return { outcome: "line" };
      }
    };
    // As any form, so that its answer is a page: both values side by side, or what to correct.
    const natively = async (entry) => {
      await drop(entry);
      const form = document.createElement("form");
      form.method = "post";
      form.action = "/places";
      for (const [name, value] of [...entry.fields, ["csrf", token()]]) {
        const field = document.createElement("input");
        [field.type, field.name, field.value] = ["hidden", name, value];
        form.append(field);
      }
      document.body.append(form);
      form.submit();
    };
    const isTyping = () =>
      [...document.querySelectorAll("form[data-keep] input:not([type=hidden])")].some((field) => field.value !== field.defaultValue);
    const attempt = async (entry, now) => {
      if (busy.has(entry.unit)) return;
      busy.add(entry.unit);
      const { outcome, text } = await send(entry);
      busy.delete(entry.unit);
      if (entries.get(entry.unit) !== entry) return; // a newer word about the same unit came meanwhile
      if (outcome === "saved") {
        await drop(entry);
        if (now || !(isTyping() || entries.size)) location.replace("/places");
        else show(text);
      } else if (outcome === "look" && now) {
        await natively(entry);
      } else if (outcome === "away" && now) {
        location.assign("/places");
      } else {
        entry.state = { look: "differs", away: "away" }[outcome] ?? "waiting";
        show();
        if (now) box.scrollIntoView({ block: "nearest" }); // whoever saved further down sees that it has to wait
      }
    };
    const sendWaiting = async () => {
      for (const entry of [...entries.values()].filter(({ state }) => state === "waiting")) {
        if (isOver(entry)) {
          await drop(entry);
          show(words.tooOld.replace("{what}", entry.what));
        } else {
          await attempt(entry, false);
        }
      }
    };

    document.addEventListener("submit", async (event) => {
      const form = event.target;
      if (!form.matches("form[data-keep]")) return;
      event.preventDefault();
      const fields = [...new FormData(form)].filter(([name]) => name !== "csrf");
      const typed = Object.fromEntries(fields);
      const unit = typed.unit ?? "";
      if (busy.has(unit)) return; // the second of two taps
      const what = form.dataset.keep.replace("{free}", typed.free);
      const entry = { id: crypto.randomUUID(), at: Date.now(), unit, what, fields, state: "sending" };
      for (const field of form.elements) field.defaultValue = field.value; // this is said, and not being typed any more
      await newest(entry);
      await put(entry).catch(() => {}); // a browser that keeps nothing sends all the same
      show();
      await attempt(entry, true);
    });
    addEventListener("online", sendWaiting);
    document.addEventListener("line", sendWaiting);
    setInterval(sendWaiting, AGAIN);
    find().then(
      () => entries.size && show(),
      () => {},
    );
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
