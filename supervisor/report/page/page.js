"use strict";
// The server writes the page; this fetches it again when there is news, and counts the seconds in between.
(() => {
  const contact = document.getElementById("contact");
  const SOON = 300; // ms after the first of a burst of records
  const AT_LEAST = 10000; // ms: what workers say of themselves is in no record
  let ahead = 0; // ms that the server's clock is ahead of ours
  let heardAt = Date.now();
  let due = null;
  let busy = false;
  let again = false;

  const units = [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]];
  function words(seconds) {
    if (seconds < 60) return seconds < 9.95 ? seconds.toFixed(1) + " s" : Math.round(seconds) + " s";
    for (const [unit, size, smaller, part] of units) {
      if (seconds < size) continue;
      const rest = Math.floor((seconds % size) / part);
      return Math.floor(seconds / size) + " " + unit + (rest ? " " + rest + " " + smaller : "");
    }
  }

  function count() {
    const now = Date.now() + ahead;
    for (const time of document.querySelectorAll("time[data-how]")) {
      const at = Date.parse(time.dateTime);
      const how = time.dataset.how;
      time.title = time.dateTime;
      if (how === "at") {
        time.textContent = new Date(at).toLocaleString();
      } else if (how === "in") {
        time.textContent = at > now ? "in " + words((at - now) / 1000) : "now";
      } else {
        const ago = words(Math.max(0, now - at) / 1000);
        time.textContent = how === "ago" ? ago + " ago" : ago;
      }
    }
    if (!contact.hidden) {
      contact.textContent = "No contact for " + words((Date.now() - heardAt) / 1000) + ". What is shown is old.";
    }
  }

  function arrived() {
    const main = document.querySelector("main");
    ahead = Date.parse(main.dataset.now) - Date.now();
    heardAt = Date.now();
    contact.hidden = true;
    count();
  }

  async function refresh() {
    clearTimeout(due);
    due = null;
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(answer.status);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const open = new Set(Array.from(document.querySelectorAll("details[open]"), (one) => one.id));
      const focused = document.activeElement && document.activeElement.closest("details");
      const fresh = page.querySelector("main");
      for (const one of fresh.querySelectorAll("details")) one.open = open.has(one.id);
      document.querySelector("main").replaceWith(document.adoptNode(fresh));
      document.title = page.title;
      if (focused) document.getElementById(focused.id)?.querySelector("summary").focus({ preventScroll: true });
      arrived();
    } catch {
      contact.hidden = false;
      count();
    } finally {
      busy = false;
      if (again) {
        again = false;
        soon();
      }
    }
  }

  function soon() {
    if (due === null && !document.hidden) due = setTimeout(refresh, SOON);
  }

  function listen() {
    const news = new EventSource("/events");
    news.onopen = soon;
    news.onmessage = soon;
    news.addEventListener("lost", soon);
    news.onerror = () => {
      soon();
      if (news.readyState === EventSource.CLOSED) setTimeout(listen, AT_LEAST); // too many listen already
    };
  }

  arrived();
  listen();
  setInterval(() => document.hidden || count(), 1000);
  setInterval(() => document.hidden || refresh(), AT_LEAST);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
})();
